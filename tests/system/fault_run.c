/* Runs a program and lets its system calls fail: the real process, the real kernel, and a disk that
 * breaks at a counted moment.
 *
 *   fault_run [OPTION...] -- PROGRAM ARGUMENT...
 *
 *   --file PATH              the data file; its calls are told apart by zone
 *   --fault POINT:N:ACTION   at the N-th call of POINT, counted from 1; N+ = from then on
 *   --storm SEED             once the data file is used, a third of all calls that may return EINTR
 *                            do, and reads and writes of the data file are cut short
 *   --power-cut SEED         when the program has ended, however it did, what was written to the
 * data file and not synced is kept, lost or torn in pieces of 512 bytes; SEED 0 loses all of it
 *   --pid PATH               where the program's process id is written
 *   --report PATH            how often each point was passed, "POINT COUNT" lines, and what was
 * done
 *   --audit yes              stops at all calls but those that are known to change nothing outside
 * of the process; what is then none of the points below is counted as unlisted
 *
 *   POINT    superblock-write journal-write grid-write superblock-read journal-read grid-read
 *            sync (of the data file) reply (sendmsg, sendto)
 *            outside (what else changes something that others see: names, sizes, modes and locks of
 *            files, binding, listening, accepting)
 *            change (all but the reads) any (all of these)
 *   ACTION   kill-before kill-after        SIGKILL, the call not begun, or done
 *            kill-torn                     a write that is on the disk by half
 *            eio enospc                    the call does nothing and fails
 *            torn-eio                      a write that is on the disk by half, and fails
 *            short                         half of a read or write, honestly said
 *            lie                           the call does nothing and says that it did
 *
 * What a process has done to the world is what its system calls did, so a kill before and behind
 * each call that changes something is a kill at every point of the program.
 *
 * How: the program runs under ptrace with a seccomp filter that stops it at the calls above and at
 * no others, whatever thread makes them. It needs no rights, no mount and no help of the program.
 * Before a write to the data file the bytes that it replaces are put aside; a sync that succeeds
 * lets go of those whose write had ended when it began. That is the power cut: what has not been
 * let go of may be put back. x86-64 only.
 *
 * Exit code: the program's; 128 + the signal that ended it; 99 when this could not be done. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/storage/limits.h"
#include "engine/storage/superblock.h"
#include "pool/base.h"
#include "tests/harness/prng.h"

enum {
    EXIT_CANNOT = 99,
    THREAD_MAX = 256,
    FAULT_MAX = 8,
    PIECE_SIZE = 512,
    PATH_SIZE = 64,
    TRACE_OPTIONS =
        PTRACE_O_TRACECLONE | PTRACE_O_TRACESECCOMP | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL,
    SYSCALL_STOP = SIGTRAP | 0x80,
};

/* X(name, text) */
#define POINT_MAP(X)                                                                               \
    X(SUPERBLOCK_WRITE, "superblock-write")                                                        \
    X(JOURNAL_WRITE, "journal-write")                                                              \
    X(GRID_WRITE, "grid-write")                                                                    \
    X(SUPERBLOCK_READ, "superblock-read")                                                          \
    X(JOURNAL_READ, "journal-read")                                                                \
    X(GRID_READ, "grid-read")                                                                      \
    X(SYNC, "sync")                                                                                \
    X(REPLY, "reply")                                                                              \
    X(OUTSIDE, "outside")                                                                          \
    X(UNLISTED, "unlisted")                                                                        \
    X(CHANGE, "change")                                                                            \
    X(ANY, "any")

enum point {
#define X(name, text) POINT_##name,
    POINT_MAP(X)
#undef X
        POINT_COUNT,
    POINT_OTHER = POINT_COUNT, /* a call that only the storm is about */
};

static const char *const point_names[] = {
#define X(name, text) text,
    POINT_MAP(X)
#undef X
};

#define ACTION_MAP(X)                                                                              \
    X(KILL_BEFORE, "kill-before")                                                                  \
    X(KILL_AFTER, "kill-after")                                                                    \
    X(KILL_TORN, "kill-torn")                                                                      \
    X(EIO, "eio")                                                                                  \
    X(ENOSPC, "enospc")                                                                            \
    X(TORN_EIO, "torn-eio")                                                                        \
    X(SHORT, "short")                                                                              \
    X(LIE, "lie")

enum action {
#define X(name, text) ACTION_##name,
    ACTION_MAP(X)
#undef X
        ACTION_COUNT,
    ACTION_NONE = ACTION_COUNT,
};

static const char *const action_names[] = {
#define X(name, text) text,
    ACTION_MAP(X)
#undef X
};

struct fault {
    enum point point;
    uint64_t at;
    bool from_then_on;
    enum action action;
};

/* A write to the data file that no sync has made durable. */
struct unsynced {
    uint64_t offset, size;
    uint8_t *before;    /* [size] what it replaced, owned; past the old end: zeros */
    uint64_t completed; /* 0: still running; else when, in calls */
    struct unsynced *next;
};

struct thread {
    pid_t tid; /* 0: free */
    bool in_call;
    enum action action;
    long result;            /* what the call returns, when `replaced` */
    bool replaced;          /* the call is not made */
    struct unsynced *write; /* that this call does, or NULL */
    bool sync;              /* it syncs the data file */
    uint64_t begun;         /* when, in calls */
};

static struct thread threads[THREAD_MAX];
static struct fault faults[FAULT_MAX];
static uint32_t fault_count;
static uint64_t counts[POINT_COUNT];
static uint64_t fired_count, interrupted_count;
static uint64_t calls; /* a clock: stops so far */

static const char *file_path, *pid_path, *report_path;
static bool storm, power_cut, audit;
static unsigned long long unlisted; /* the number of such a call */
static uint64_t power_seed;
static struct prng storm_prng;
static int file_fd = -1;
static struct stat file_info;
static struct geometry geometry;
static struct unsynced *oldest, *newest;
static uint64_t size_durable; /* of the file, as of the last sync */
static uint64_t kept_count, lost_count;

__attribute__((noreturn)) static void cannot(const char *what)
{
    fprintf(stderr, "fault_run: %s: %s\n", what, strerror(errno));
    exit(EXIT_CANNOT);
}

/* ---- The data file -----------------------------------------------------------------------------
 */

static void file_open(void)
{
    struct superblock superblock;
    const char *reason;
    file_fd = open(file_path, O_RDWR | O_CLOEXEC);
    if (file_fd < 0 || fstat(file_fd, &file_info) != 0) {
        cannot(file_path);
    }
    size_durable = (uint64_t)file_info.st_size;
    if (pread(file_fd, &superblock, sizeof superblock, 0) != sizeof superblock ||
        geometry_validate(&superblock.geometry, &reason) != STATUS_OK) {
        errno = EINVAL;
        cannot(file_path);
    }
    geometry = superblock.geometry;
}

static uint64_t file_size(void)
{
    struct stat info;
    if (fstat(file_fd, &info) != 0) {
        cannot(file_path);
    }
    return (uint64_t)info.st_size;
}

static bool is_file(pid_t tid, unsigned long long fd)
{
    char path[PATH_SIZE];
    struct stat info;
    if (file_fd < 0) {
        return false;
    }
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)tid, (int)fd);
    return stat(path, &info) == 0 && info.st_dev == file_info.st_dev &&
           info.st_ino == file_info.st_ino;
}

static void file_read(uint64_t offset, uint8_t *bytes, uint64_t size)
{
    memset(bytes, 0, size);
    for (uint64_t done = 0; done < size;) {
        const ssize_t got = pread(file_fd, bytes + done, size - done, (off_t)(offset + done));
        if (got < 0) {
            cannot("reading the data file");
        }
        if (got == 0) {
            return;
        }
        done += (uint64_t)got;
    }
}

static void file_write(uint64_t offset, const uint8_t *bytes, uint64_t size)
{
    if (pwrite(file_fd, bytes, size, (off_t)offset) != (ssize_t)size) {
        cannot("writing to the data file");
    }
}

static struct unsynced *write_begin(uint64_t offset, uint64_t size)
{
    struct unsynced *write = calloc(1, sizeof *write);
    uint8_t *before = calloc(1, size);
    if (write == NULL || before == NULL) {
        cannot("memory");
    }
    file_read(offset, before, size);
    *write = (struct unsynced){.offset = offset, .size = size, .before = before};
    if (newest != NULL) {
        newest->next = write;
    } else {
        oldest = write;
    }
    newest = write;
    return write;
}

/* What was complete when the sync began is durable now. */
static void sync_end(uint64_t begun)
{
    struct unsynced **link = &oldest;
    newest = NULL;
    while (*link != NULL) {
        struct unsynced *write = *link;
        if (write->completed != 0 && write->completed < begun) {
            *link = write->next;
            free(write->before);
            free(write);
        } else {
            newest = write;
            link = &write->next;
        }
    }
    size_durable = file_size();
}

/* Puts back what was there before the second half of the write. */
static void write_tear(const struct unsynced *write)
{
    const uint64_t keep = write->size / 2 / PIECE_SIZE * PIECE_SIZE;
    file_write(write->offset + keep, write->before + keep, write->size - keep);
    if (fsync(file_fd) != 0) {
        cannot("fsync");
    }
}

static bool is_lost(struct prng *prng)
{
    return power_seed == 0 || prng_chance(prng, 1, 2);
}

static void power_fail(void)
{
    struct prng prng;
    prng_init(&prng, power_seed);
    /* Newest first, so that what was put aside first is put back last. Whole writes are as likely
     * to go as pieces of them; once a piece goes back past a write, it cannot come forward again.
     */
    struct unsynced *reversed = NULL;
    while (oldest != NULL) {
        struct unsynced *write = oldest;
        oldest = write->next;
        write->next = reversed;
        reversed = write;
    }
    newest = NULL;
    while (reversed != NULL) {
        struct unsynced *write = reversed;
        reversed = write->next;
        const bool by_pieces = power_seed != 0 && prng_chance(&prng, 1, 2);
        const bool all_lost = !by_pieces && is_lost(&prng);
        bool any_lost = false;
        for (uint64_t at = 0; at < write->size; at += PIECE_SIZE) {
            if (by_pieces ? is_lost(&prng) : all_lost) {
                const uint64_t size = min_u64(PIECE_SIZE, write->size - at);
                file_write(write->offset + at, write->before + at, size);
                any_lost = true;
            }
        }
        lost_count += any_lost;
        kept_count += !any_lost;
        free(write->before);
        free(write);
    }
    if (file_size() > size_durable && is_lost(&prng) &&
        ftruncate(file_fd, (off_t)size_durable) != 0) {
        cannot("ftruncate");
    }
    if (fsync(file_fd) != 0) {
        cannot("fsync");
    }
}

/* ---- Calls -------------------------------------------------------------------------------------
 */

/* Those that the filter stops at: about the data file, replies, and what else changes the world. */
static const unsigned int traced[] = {
    SYS_pread64,   SYS_pwrite64, SYS_fdatasync, SYS_fsync,     SYS_sendmsg, SYS_openat,
    SYS_open,      SYS_creat,    SYS_unlink,    SYS_unlinkat,  SYS_rename,  SYS_renameat,
    SYS_link,      SYS_linkat,   SYS_symlink,   SYS_symlinkat, SYS_mkdir,   SYS_mkdirat,
    SYS_rmdir,     SYS_chmod,    SYS_fchmod,    SYS_fchmodat,  SYS_chown,   SYS_fchown,
    SYS_fchownat,  SYS_truncate, SYS_ftruncate, SYS_fallocate, SYS_flock,   SYS_bind,
    SYS_sendto,    SYS_listen,   SYS_accept,    SYS_accept4,   SYS_connect, SYS_shutdown,
    SYS_renameat2,
};
/* Those that may return EINTR, for the storm. Not fdatasync, and not read and write, which here are
 * those of eventfds: they never do. */
static const unsigned int interruptible[] = {
    SYS_readv,       SYS_recvmsg, SYS_poll,   SYS_epoll_wait,
    SYS_epoll_pwait, SYS_accept4, SYS_accept, SYS_flock,
};
/* Those that change nothing but the process itself, for the audit. What it writes with write(2) are
 * its log and its eventfds: that is looked at. */
static const unsigned int harmless[] = {
    SYS_read,
    SYS_readv,
    SYS_close,
    SYS_fstat,
    SYS_newfstatat,
    SYS_stat,
    SYS_lstat,
    SYS_statx,
    SYS_statfs,
    SYS_fstatfs,
    SYS_access,
    SYS_faccessat2,
    SYS_readlink,
    SYS_getdents64,
    SYS_lseek,
    SYS_getcwd,
    SYS_mmap,
    SYS_munmap,
    SYS_mprotect,
    SYS_mremap,
    SYS_madvise,
    SYS_brk,
    SYS_futex,
    SYS_clone,
    SYS_clone3,
    SYS_exit,
    SYS_exit_group,
    SYS_execve,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_rt_sigtimedwait,
    SYS_sigaltstack,
    SYS_tgkill,
    SYS_restart_syscall,
    SYS_poll,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_wait,
    SYS_epoll_pwait,
    SYS_eventfd2,
    SYS_pipe2,
    SYS_dup,
    SYS_fcntl,
    SYS_ioctl,
    SYS_socket,
    SYS_setsockopt,
    SYS_getsockopt,
    SYS_getsockname,
    SYS_getpeername,
    SYS_recvmsg,
    SYS_recvfrom,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_nanosleep,
    SYS_getrandom,
    SYS_gettid,
    SYS_getpid,
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_uname,
    SYS_sysinfo,
    SYS_prctl,
    SYS_arch_prctl,
    SYS_prlimit64,
    SYS_getrlimit,
    SYS_set_tid_address,
    SYS_set_robust_list,
    SYS_rseq,
    SYS_membarrier,
    SYS_sched_getaffinity,
    SYS_sched_yield,
    SYS_mlock,
    SYS_getrusage,
};

static bool is_among(unsigned long long number, const unsigned int *list, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (list[i] == number) {
            return true;
        }
    }
    return false;
}

static enum point zone_point(bool write, uint64_t offset)
{
    const enum point first = write ? POINT_SUPERBLOCK_WRITE : POINT_SUPERBLOCK_READ;
    return offset < journal_zone_offset(&geometry) ? first
           : offset < grid_zone_offset(&geometry)  ? first + 1
                                                   : first + 2;
}

static enum point point_of(pid_t tid, const struct user_regs_struct *regs)
{
    switch (regs->orig_rax) {
    case SYS_pread64:
    case SYS_pwrite64:
        return is_file(tid, regs->rdi) ? zone_point(regs->orig_rax == SYS_pwrite64, regs->r10)
                                       : POINT_OTHER;
    case SYS_fdatasync:
    case SYS_fsync:
        return is_file(tid, regs->rdi) ? POINT_SYNC : POINT_OTHER;
    case SYS_sendmsg:
    case SYS_sendto: /* A greeting of the native listener. */
        return POINT_REPLY;
    case SYS_open:
    case SYS_openat: {
        const unsigned long long flags = regs->orig_rax == SYS_open ? regs->rsi : regs->rdx;
        return (flags & (O_CREAT | O_TRUNC)) != 0 ? POINT_OUTSIDE : POINT_OTHER;
    }
    case SYS_write:
        return is_file(tid, regs->rdi) ? POINT_UNLISTED : POINT_OTHER;
    default:
        break;
    }
    if (is_among(regs->orig_rax, traced, array_count(traced))) {
        return POINT_OUTSIDE;
    }
    return is_among(regs->orig_rax, interruptible, array_count(interruptible)) ? POINT_OTHER
                                                                               : POINT_UNLISTED;
}

/* A fault's point may stand for several. */
static bool point_covers(enum point wide, enum point point)
{
    const bool reads = point >= POINT_SUPERBLOCK_READ && point <= POINT_GRID_READ;
    return wide == point || wide == POINT_ANY || (wide == POINT_CHANGE && !reads);
}

/* Counts the call and says what becomes of it. */
static enum action action_for(enum point point)
{
    enum action action = ACTION_NONE;
    if (point == POINT_OTHER) {
        return action;
    }
    for (enum point wide = 0; wide < POINT_COUNT; wide++) {
        counts[wide] += point_covers(wide, point);
    }
    for (uint32_t i = 0; i < fault_count; i++) {
        const struct fault *fault = &faults[i];
        if (!point_covers(fault->point, point)) {
            continue;
        }
        const uint64_t count = counts[fault->point];
        if (count == fault->at || (fault->from_then_on && count > fault->at)) {
            action = fault->action;
            fired_count += 1;
        }
    }
    return action;
}

static void regs_set(pid_t tid, const struct user_regs_struct *regs)
{
    if (ptrace(PTRACE_SETREGS, tid, NULL, regs) != 0 && errno != ESRCH) {
        cannot("PTRACE_SETREGS");
    }
}

static void call_replace(struct thread *thread, struct user_regs_struct *regs, long result)
{
    thread->replaced = true;
    thread->result = result;
    regs->orig_rax = (unsigned long long)-1; /* No such call: the kernel does nothing. */
    regs_set(thread->tid, regs);
}

/* Half of it in whole sectors, as O_DIRECT wants them. */
static void call_shorten(struct thread *thread, struct user_regs_struct *regs)
{
    const unsigned long long half = regs->rdx / 2 / SECTOR_SIZE * SECTOR_SIZE;
    if (half > 0) {
        regs->rdx = half;
        regs_set(thread->tid, regs);
        interrupted_count += 1;
    }
}

static void storm_blow(struct thread *thread, struct user_regs_struct *regs, enum point point)
{
    const bool data = point < POINT_SYNC;
    const bool of_files = regs->orig_rax == SYS_pread64 || regs->orig_rax == SYS_pwrite64 ||
                          regs->orig_rax == SYS_fsync;
    const bool never = point == POINT_SYNC ||
                       ((point == POINT_OUTSIDE || (point == POINT_OTHER && !of_files)) &&
                        !is_among(regs->orig_rax, interruptible, array_count(interruptible)));
    if (never || !prng_chance(&storm_prng, 1, 3)) {
        return;
    }
    if (data && prng_chance(&storm_prng, 1, 2)) {
        call_shorten(thread, regs);
    } else if (point != POINT_OTHER || regs->orig_rax != SYS_fsync) {
        call_replace(thread, regs, -EINTR);
        interrupted_count += 1;
    }
}

/* At the door of a call. Returns whether its end matters. */
static bool call_begin(struct thread *thread, pid_t process)
{
    struct user_regs_struct regs;
    if (ptrace(PTRACE_GETREGS, thread->tid, NULL, &regs) != 0) {
        return false; /* Killed meanwhile. */
    }
    const enum point point = point_of(thread->tid, &regs);
    if (point == POINT_UNLISTED) {
        unlisted = regs.orig_rax;
    }
    *thread = (struct thread){
        .tid = thread->tid, .in_call = true, .action = action_for(point), .begun = ++calls};
    switch (thread->action) {
    case ACTION_KILL_BEFORE:
        kill(process, SIGKILL);
        return false;
    case ACTION_EIO:
        call_replace(thread, &regs, -EIO);
        return true;
    case ACTION_ENOSPC:
        call_replace(thread, &regs, -ENOSPC);
        return true;
    case ACTION_LIE:
        call_replace(thread, &regs,
                     point == POINT_SYNC || point == POINT_OTHER ? 0 : (long)regs.rdx);
        return true;
    case ACTION_SHORT:
        call_shorten(thread, &regs);
        break;
    case ACTION_KILL_AFTER:
    case ACTION_KILL_TORN:
    case ACTION_TORN_EIO:
        break;
    case ACTION_NONE:
        if (storm && counts[POINT_ANY] > 0) { /* The loader and main are not what is tested. */
            storm_blow(thread, &regs, point);
        }
        break;
    }
    if (!thread->replaced && point <= POINT_GRID_WRITE) {
        thread->write = write_begin(regs.r10, regs.rdx);
    }
    thread->sync = !thread->replaced && point == POINT_SYNC;
    return thread->replaced || thread->write != NULL || thread->sync ||
           thread->action != ACTION_NONE;
}

static void call_end(struct thread *thread, pid_t process)
{
    struct user_regs_struct regs;
    thread->in_call = false;
    if (ptrace(PTRACE_GETREGS, thread->tid, NULL, &regs) != 0) {
        return;
    }
    calls += 1;
    if (thread->write != NULL) {
        thread->write->completed = calls;
    }
    if (thread->sync && (long)regs.rax == 0) {
        sync_end(thread->begun);
    }
    if (thread->replaced) {
        regs.rax = (unsigned long long)thread->result;
        regs_set(thread->tid, &regs);
    }
    switch (thread->action) {
    case ACTION_KILL_AFTER:
        kill(process, SIGKILL);
        break;
    case ACTION_KILL_TORN:
        kill(process, SIGKILL);
        if (thread->write != NULL) {
            write_tear(thread->write);
        }
        break;
    case ACTION_TORN_EIO:
        if (thread->write != NULL) {
            write_tear(thread->write);
        }
        regs.rax = (unsigned long long)-EIO;
        regs_set(thread->tid, &regs);
        break;
    default:
        break;
    }
}

/* ---- The program -------------------------------------------------------------------------------
 */

/* What the filter answers to these calls. */
static uint32_t filter_add(struct sock_filter *code, uint32_t count, const unsigned int *numbers,
                           uint32_t number_count, uint32_t answer)
{
    for (uint32_t i = 0; i < number_count; i++) {
        code[count++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, numbers[i], 0, 1);
        code[count++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, answer);
    }
    return count;
}

/* In the program's process. */
static void filter_install(void)
{
    struct sock_filter
        code[2 * (array_count(traced) + array_count(interruptible) + array_count(harmless)) + 5];
    uint32_t count = 0;
    code[count++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    code[count++] =
        (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    code[count++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[count++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    count = filter_add(code, count, traced, array_count(traced), SECCOMP_RET_TRACE);
    if (storm) {
        count =
            filter_add(code, count, interruptible, array_count(interruptible), SECCOMP_RET_TRACE);
    }
    if (audit) {
        count = filter_add(code, count, harmless, array_count(harmless), SECCOMP_RET_ALLOW);
    }
    code[count++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K,
                                                 audit ? SECCOMP_RET_TRACE : SECCOMP_RET_ALLOW);
    const struct sock_fprog program = {.len = (unsigned short)count, .filter = code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        cannot("seccomp");
    }
}

static pid_t program_start(char **argv)
{
    int door[2];
    if (pipe2(door, O_CLOEXEC) != 0) {
        cannot("pipe");
    }
    const pid_t process = fork();
    if (process < 0) {
        cannot("fork");
    }
    if (process == 0) {
        char byte;
        close(door[1]);
        if (read(door[0], &byte, 1) != 1) { /* Until we are traced. */
            _exit(EXIT_CANNOT);
        }
        filter_install();
        execvp(argv[0], argv);
        cannot(argv[0]);
    }
    if (ptrace(PTRACE_SEIZE, process, NULL, TRACE_OPTIONS) != 0) {
        cannot("ptrace");
    }
    if (write(door[1], "", 1) != 1) {
        cannot("pipe");
    }
    close(door[0]);
    close(door[1]);
    return process;
}

static struct thread *thread_of(pid_t tid)
{
    struct thread *unused = NULL;
    for (uint32_t i = 0; i < THREAD_MAX; i++) {
        if (threads[i].tid == tid) {
            return &threads[i];
        }
        if (threads[i].tid == 0 && unused == NULL) {
            unused = &threads[i];
        }
    }
    assert(unused != NULL);
    *unused = (struct thread){.tid = tid};
    return unused;
}

/* One stop of one thread: what happens, and how it goes on. */
static void stop_handle(pid_t tid, int status, pid_t process)
{
    const int signal = WSTOPSIG(status);
    const int event = status >> 16;
    struct thread *thread = thread_of(tid);
    enum __ptrace_request request = PTRACE_CONT;
    int pass = 0;
    if (event == PTRACE_EVENT_SECCOMP) {
        request = call_begin(thread, process) ? PTRACE_SYSCALL : PTRACE_CONT;
    } else if (signal == SYSCALL_STOP) {
        call_end(thread, process);
    } else if (event == 0) {
        pass = signal; /* On its way to the program. */
    }
    /* ESRCH: killed meanwhile; its end will be told. */
    if (ptrace(request, tid, NULL, (void *)(intptr_t)pass) != 0 && errno != ESRCH) {
        cannot("ptrace");
    }
}

/* Until it has ended. Returns its status. */
static int program_trace(pid_t process)
{
    for (;;) {
        int status;
        const pid_t tid = waitpid(-1, &status, __WALL);
        if (tid < 0) {
            if (errno == EINTR) {
                continue;
            }
            cannot("waitpid");
        }
        if (WIFSTOPPED(status)) {
            stop_handle(tid, status, process);
            continue;
        }
        *thread_of(tid) = (struct thread){0};
        if (tid == process) {
            return status; /* The last of its threads: all calls are over. */
        }
    }
}

/* ---- Asking ------------------------------------------------------------------------------------
 */

__attribute__((noreturn)) static void usage(const char *what)
{
    fprintf(stderr, "fault_run: %s; its source says how it is used\n", what);
    exit(EXIT_CANNOT);
}

static uint32_t name_find(const char *name, size_t size, const char *const *names, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (strlen(names[i]) == size && strncmp(names[i], name, size) == 0) {
            return i;
        }
    }
    usage(name);
}

static void fault_add(const char *text)
{
    const char *colon = strchr(text, ':');
    char *end = NULL;
    if (colon == NULL || fault_count == FAULT_MAX) {
        usage(text);
    }
    struct fault *fault = &faults[fault_count++];
    fault->point = name_find(text, (size_t)(colon - text), point_names, POINT_COUNT);
    fault->at = strtoull(colon + 1, &end, 10);
    fault->from_then_on = *end == '+';
    end += fault->from_then_on;
    if (*end != ':' || fault->at == 0) {
        usage(text);
    }
    fault->action = name_find(end + 1, strlen(end + 1), action_names, ACTION_COUNT);
}

static void report_write(void)
{
    FILE *file = fopen(report_path, "we");
    if (file == NULL) {
        cannot(report_path);
    }
    for (uint32_t i = 0; i < POINT_COUNT; i++) {
        fprintf(file, "%s %" PRIu64 "\n", point_names[i], counts[i]);
    }
    fprintf(file,
            "fired %" PRIu64 "\ninterrupted %" PRIu64 "\nkept %" PRIu64 "\nlost %" PRIu64 "\n",
            fired_count, interrupted_count, kept_count, lost_count);
    if (counts[POINT_UNLISTED] > 0) {
        fprintf(file, "call %llu\n", unlisted);
    }
    if (fclose(file) != 0) {
        cannot(report_path);
    }
}

int main(int argc, char **argv)
{
    int i = 1;
    for (; i + 1 < argc && strcmp(argv[i], "--") != 0; i += 2) {
        const char *value = argv[i + 1];
        if (strcmp(argv[i], "--file") == 0) {
            file_path = value;
        } else if (strcmp(argv[i], "--fault") == 0) {
            fault_add(value);
        } else if (strcmp(argv[i], "--storm") == 0) {
            storm = true;
            prng_init(&storm_prng, strtoull(value, NULL, 10));
        } else if (strcmp(argv[i], "--audit") == 0) {
            audit = true;
        } else if (strcmp(argv[i], "--power-cut") == 0) {
            power_cut = true;
            power_seed = strtoull(value, NULL, 10);
        } else if (strcmp(argv[i], "--pid") == 0) {
            pid_path = value;
        } else if (strcmp(argv[i], "--report") == 0) {
            report_path = value;
        } else {
            usage(argv[i]);
        }
    }
    if (i + 1 >= argc) {
        usage("no program");
    }
    if (file_path != NULL) {
        file_open();
    } else if (power_cut) {
        usage("--power-cut without --file");
    }
    const pid_t process = program_start(argv + i + 1);
    if (pid_path != NULL) {
        FILE *file = fopen(pid_path, "we");
        if (file == NULL || fprintf(file, "%d\n", (int)process) < 0 || fclose(file) != 0) {
            cannot(pid_path);
        }
    }
    const int status = program_trace(process);
    if (power_cut) {
        power_fail();
    }
    if (report_path != NULL) {
        report_write();
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
