#!/usr/bin/env python3
"""Money moves between accounts: all of it or nothing, whoever else moves money at the same time.

    transfer.py THREADS TRANSFERS"""

import random
import sys
import threading

import holt

ACCOUNTS = 5


def transfer(store, accounts, source_id, target_id, amount):
    while True:
        source, target = accounts.get_many([source_id, target_id])
        if source.balance < amount:
            return False
        try:
            with store.write(atomic=True) as write:
                write.update(accounts, source.replace(balance=source.balance - amount),
                             if_unchanged=True)
                write.update(accounts, target.replace(balance=target.balance + amount),
                             if_unchanged=True)
            return True
        except holt.Failures:
            pass # Somebody else was faster, and nothing happened: look again.


def work(store, accounts, count, seed):
    chance = random.Random(seed)
    for _ in range(count):
        source, target = chance.sample(range(1, ACCOUNTS + 1), 2)
        transfer(store, accounts, source, target, chance.randint(1, 200))


def main():
    threads, transfers = int(sys.argv[1]), int(sys.argv[2])
    with holt.connect() as store:
        store.create("purse", {"balance": holt.u64}, exist_ok=True)
        accounts = store.groove("purse")
        for id in range(1, ACCOUNTS + 1):
            accounts.upsert(id, balance=1000)
        team = [threading.Thread(target=work, args=(store, accounts, transfers, i))
                for i in range(threads)]
        for thread in team:
            thread.start()
        for thread in team:
            thread.join()
        print(sum(account.balance for account in accounts.get_many(range(1, ACCOUNTS + 1))))


main()
