"""PostgreSQL on a mount: what it has acknowledged is there after its own death and after the daemon's.
"""

import os
import time

from case import OWN_POOLS, case
from harness import expect, expect_equal, wait_until
from postgres import Ledger, Postgres
from targets import MIB, directory_disk, dynamicfs, image_disk

GROUP = "postgres"


def _server_on_new_pool(bench, settings=()):
    disks = [
        image_disk(bench.scratch / "disk-a.img", 1024 * MIB),
        image_disk(bench.scratch / "disk-b.img", 1536 * MIB),
        directory_disk(bench.scratch / "disk-c"),
    ]
    pool = bench.pool("pool", disks, "replica:2").mount()
    # Near the root: the name of a socket may have 107 bytes.
    outside = bench.workspace.directory("pg")
    for old in outside.iterdir():
        old.unlink()
    return pool, Postgres(pool.root / "data", outside, settings).create()


@case(
    GROUP,
    "pgbench: every transaction is there once and whole, after each of them a restart and a remount",
    where=OWN_POOLS,
    needs=["root", "postgresql"],
    timeout_s=300,
)
def transactions(bench):
    pool, server = _server_on_new_pool(bench)
    server.start()
    server.bench("--initialize", f"--scale={1 if bench.quick else 10}", timeout_s=120)
    clients, each = 4, 200 if bench.quick else 5000
    told = server.bench(f"--client={clients}", "--jobs=2", f"--transactions={each}", timeout_s=200).out
    wanted = clients * each
    expect(f"{wanted}/{wanted}" in told, f"pgbench says {told}")
    for when in ("at once", "after a restart", "after a remount"):
        if when != "at once":
            server.stop()
            server.expect_checksums()
            if when == "after a remount":
                pool.remount()
            server.start()
        server.expect_balanced()
        count = server.sql("SELECT count(*) FROM pgbench_history").strip()
        expect_equal(count, str(wanted), f"transactions in the history {when}")
    server.expect_sound()
    server.stop()
    pool.umount()
    dynamicfs("check", "--data", pool.disks[0].path, check=True)


def _kill_case(victim):
    @case(
        GROUP,
        f"after kill -9 of {victim} every acknowledged transaction is there, amcheck and checksums are clean",
        where=OWN_POOLS,
        needs=["root", "postgresql"],
        timeout_s=600,
    )
    def run(bench):
        # Small, so that checkpoints and the reuse of log files come while it is killed.
        settings = {"max_wal_size": "32MB", "shared_buffers": "16MB", "checkpoint_timeout": "30s"}
        pool, server = _server_on_new_pool(bench, settings)
        server.start()
        server.bench("--initialize", f"--scale={1 if bench.quick else 5}", timeout_s=120)
        ledgers = [Ledger(server, name) for name in ("a", "b")]
        rounds = 1 if victim == "postgres" else 2  # the second recovers what was recovered
        for _ in range(rounds if bench.quick else 12):
            for ledger in ledgers:
                ledger.start()
            load = os.fork()
            if load == 0:
                try:
                    server.bench("--client=3", "--time=100", check=False, timeout_s=150)
                finally:
                    os._exit(0)
            for ledger in ledgers:
                before = ledger.acknowledged()
                wait_until(lambda: ledger.acknowledged() > before, 60, "an acknowledgement")  # noqa: B023
            time.sleep(bench.rng.random() * 2)
            if victim == "the daemon":
                pool.kill()
            server.kill()
            os.waitpid(load, 0)
            for ledger in ledgers:
                ledger.join()
            if victim == "the daemon":
                pool.mount()
            server.start()
            server.expect_balanced()
            for ledger in ledgers:
                ledger.expect_all()
        server.expect_sound()
        server.stop()
        server.expect_checksums()
        pool.umount()
        dynamicfs("check", "--data", pool.disks[0].path, check=True)

    return run


for _victim in ("postgres", "the daemon"):
    _kill_case(_victim)
