/* Lists of calls and of messages, oldest first. */
#include <assert.h>

#include "ipc/libholt/client.h"

void calls_push(struct call_list *list, struct call *call)
{
    call->next = NULL;
    if (list->oldest == NULL) {
        list->oldest = call;
    } else {
        list->newest->next = call;
    }
    list->newest = call;
}

struct call *calls_pop(struct call_list *list)
{
    struct call *call = list->oldest;
    if (call != NULL) {
        list->oldest = call->next;
        call->next = NULL;
    }
    return call;
}

void calls_prepend(struct call_list *list, struct call_list *front)
{
    if (front->oldest == NULL) {
        return;
    }
    if (list->oldest == NULL) {
        *list = *front;
    } else {
        front->newest->next = list->oldest;
        list->oldest = front->oldest;
    }
    *front = (struct call_list){0};
}

void messages_push(struct message_list *list, struct message *message)
{
    message->next = NULL;
    if (list->oldest == NULL) {
        list->oldest = message;
    } else {
        list->newest->next = message;
    }
    list->newest = message;
}

void messages_remove(struct message_list *list, struct message *message)
{
    struct message *before = NULL;
    for (struct message *at = list->oldest; at != message; at = at->next) {
        assert(at != NULL);
        before = at;
    }
    if (before == NULL) {
        list->oldest = message->next;
    } else {
        before->next = message->next;
    }
    if (list->newest == message) {
        list->newest = before;
    }
    message->next = NULL;
}
