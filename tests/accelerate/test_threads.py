"""The group `threads`: what anyio promises of functions in worker threads holds with it."""

from __future__ import annotations

import textwrap

import child
import pytest

# `via` notes who ran each function, so that a test knows that it tests the group.
BEFORE = """
import asyncio, contextvars, gc, os, sys, threading, weakref
import anyio, anyio.from_thread, anyio.to_thread, sniffio
from anyio.to_thread import run_sync

LOOP, GROUP = sys.argv[1:3]
if GROUP:
    import thestral.accelerate
    assert thestral.accelerate.threads(require=True) == {"threads": None}
    assert thestral.accelerate.threads(require=True) == {"threads": None}  # and again
    from thestral.accelerate import workers as threads

def new_loop():
    if LOOP == "uvloop":
        import uvloop
        return uvloop.new_event_loop()
    return asyncio.new_event_loop()

def run(main, *args):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main(*args))

def workers():
    return [t for t in threading.enumerate() if t.name == "AnyIO worker thread"]

def gone():
    for thread in workers():
        thread.join(30)
    return not workers()

async def until(fact):
    with anyio.fail_after(30):
        while not fact():
            await anyio.sleep(0.001)

async def hold(event, count, started):
    # Holds `count` threads until `event` is set.
    def wait():
        started.append(1)
        event.wait(30)
    tasks = [asyncio.create_task(run_sync(wait)) for _ in range(count)]
    return tasks
"""


def seen(program: str, loop: str = "asyncio", group: str = "threads") -> str:
    return child.run(textwrap.dedent(BEFORE) + textwrap.dedent(program), loop, group)


def both(program: str, loop: str = "asyncio") -> str:
    """Assert that a program prints the same with and without the group; return that."""
    plain, accelerated = seen(program, loop, ""), seen(program, loop)
    assert accelerated == plain
    return plain


FUNCTIONS = """
    value = contextvars.ContextVar("value", default="unset")
    names = []

    def inspect():
        thread = threading.current_thread()
        names.append(thread.name)
        before = value.get()
        value.set("changed")
        try:
            library = sniffio.current_async_library()
        except sniffio.AsyncLibraryNotFoundError:
            library = None
        return before, library, thread.daemon, len(workers())

    def stop(): raise StopIteration(3)
    def leave(): raise SystemExit(4)
    def cancel(): raise asyncio.CancelledError("own")
    def wrong(): raise ValueError("v")

    async def library(): return sniffio.current_async_library(), value.get()

    def back():
        return (
            anyio.from_thread.run(library),
            anyio.from_thread.run_sync(sniffio.current_async_library),
            anyio.from_thread.check_cancelled(),
            anyio.from_thread.run(run_sync, inspect),
        )

    def statistics():
        found = anyio.from_thread.run_sync(
            lambda: anyio.to_thread.current_default_thread_limiter().statistics())
        return found.borrowed_tokens, found.total_tokens, found.borrowers == (host,)

    async def main(scoped):
        global host
        host = asyncio.current_task()
        value.set("of the task")
        print(await run_sync(inspect), value.get(), await run_sync(divmod, 7, 2))
        print(await run_sync(back), await run_sync(statistics))
        for function in (stop, leave, cancel, wrong):
            try:
                await run_sync(function)
            except BaseException as exc:
                print(type(exc), exc, repr(exc.__cause__), repr(exc.__context__))
        limiter = anyio.to_thread.current_default_thread_limiter()
        limiter.acquire_on_behalf_of_nowait(host)
        try:
            await run_sync(inspect)
        except RuntimeError as exc:
            print(exc)
        limiter.release()
        print(limiter.borrowed_tokens, set(names))

    async def scope():
        with anyio.CancelScope():
            await main(True)

    run(main, False)
    print(gone())  # before workers are counted again
    run(scope)
    print(gone())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_functions_see_and_return_what_they_do_with_anyio(loop: str) -> None:
    found = both(FUNCTIONS, loop)
    assert found.count("coroutine raised StopIteration") == 2
    assert found.endswith("True\n")


CANCELLED = """
    async def main():
        # A scope that is cancelled waits for its thread; check_cancelled() sees it there.
        started, go, done = threading.Event(), threading.Event(), []
        def work():
            started.set()
            go.wait(30)
            try:
                anyio.from_thread.check_cancelled()
            except asyncio.CancelledError as exc:
                done.append(str(exc)[:27])
            return 1
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(run_sync, work)
                await until(started.is_set)
                scope.cancel()
                asyncio.get_running_loop().call_later(0.05, go.set)
        print(scope.cancelled_caught, done)

        # So does check_cancelled() in a shielded scope, which sees nothing.
        with anyio.CancelScope() as scope:
            with anyio.CancelScope(shield=True):
                scope.cancel()
                print(await run_sync(anyio.from_thread.check_cancelled))

        # A task that is cancelled natively leaves its thread, which works on.
        started.clear(), go.clear(), done.clear()
        task = asyncio.create_task(run_sync(work))
        await until(started.is_set)
        task.cancel()
        print(await asyncio.gather(task, return_exceptions=True))
        go.set()

        # What is cancelled beforehand does not start.
        def never(): print("ran")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await run_sync(never)
        print(scope.cancelled_caught)
        async def cancels_itself():
            asyncio.current_task().cancel()
            await run_sync(never)
        print(await asyncio.gather(asyncio.create_task(cancels_itself()), return_exceptions=True))

        # An abandoned thread is left behind at once.
        started.clear(), go.clear()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: run_sync(work, abandon_on_cancel=True))
                await until(started.is_set)
                scope.cancel()
        print(scope.cancelled_caught, go.is_set())
        go.set()
    run(main)
    print(gone())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_cancellation_is_that_of_anyio(loop: str) -> None:
    assert "ran" not in both(CANCELLED, loop)


def test_unusual_calls_go_to_anyio() -> None:
    """A limiter of the caller's, abandon_on_cancel and a scope that is cancelled."""
    assert seen("""
        seen = []
        original = threads.original_run
        async def noting(*args):
            seen.append(args[3:])
            return await original(*args)
        threads.original_run = noting
        async def main():
            limiter = anyio.CapacityLimiter(1)
            def borrowed(): return limiter.borrowed_tokens
            print(await run_sync(borrowed), await run_sync(borrowed, limiter=limiter), len(seen))
            await run_sync(borrowed, abandon_on_cancel=True)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await run_sync(borrowed)
            print(len(seen))
        run(main)
    """).split() == ["0", "1", "1", "3"]


def test_full_limiter_serves_in_order_and_loses_no_token() -> None:
    found = both("""
        async def main():
            limiter = anyio.to_thread.current_default_thread_limiter()
            limiter.total_tokens = 1
            go, started, order = threading.Event(), [], []
            tasks = await hold(go, 1, started)
            await until(lambda: started)
            for number in range(4):
                tasks.append(asyncio.create_task(run_sync(order.append, number)))
                await until(lambda: limiter.statistics().tasks_waiting == number + 1)
            tasks.pop(2).cancel()
            async def newcomer():
                # The token is free, and promised to who waits.
                await tasks[0]
                await run_sync(order.append, "new")
            tasks.append(asyncio.create_task(newcomer()))
            go.set()
            await asyncio.gather(*tasks)
            print(order, limiter.borrowed_tokens, limiter.statistics().tasks_waiting)
        run(main)
    """)
    assert found == "[0, 2, 3, 'new'] 0 0\n"


def test_task_that_waits_for_a_token_survives_the_end_of_the_pools_root_task() -> None:
    """On a loop that runs forever the root task is the one that came first."""
    assert (
        both("""
        loop = new_loop()
        go, started = threading.Event(), []
        def wait():
            started.append(1)
            go.wait(30)
        async def first():
            anyio.to_thread.current_default_thread_limiter().total_tokens = 1
            await run_sync(int)
            holders.append(loop.create_task(run_sync(wait)))
            await until(lambda: started)
            waiters.append(loop.create_task(last()))
            limiter = anyio.to_thread.current_default_thread_limiter()
            await until(lambda: limiter.statistics().tasks_waiting)
            loop.call_later(0.05, go.set)  # after this task and its callbacks
        async def last():
            try:
                with anyio.fail_after(20):
                    print(await asyncio.wait_for(run_sync(divmod, 7, 2), 20))
            finally:
                loop.stop()
        holders, waiters = [], []
        holders.append(loop.create_task(first()))
        loop.run_forever()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        print(gone())
    """)
        == "(3, 1)\nTrue\n"
    )


def test_thread_that_cannot_start_costs_only_its_own_call() -> None:
    assert (
        both("""
        start = threading.Thread.start
        def fail(self): raise RuntimeError("can't start new thread")
        async def main():
            threading.Thread.start = fail
            try:
                await run_sync(int)
            except RuntimeError as exc:
                print(exc)
            threading.Thread.start = start
            print(anyio.to_thread.current_default_thread_limiter().borrowed_tokens)
            print(await asyncio.wait_for(run_sync(divmod, 7, 2), 20))
        run(main)
        print(gone())
    """)
        == "can't start new thread\n0\n(3, 1)\nTrue\n"
    )


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_threads_end_with_their_loop(loop: str) -> None:
    """Twice in a process, in several threads at once, and in a loop that is never closed."""
    assert (
        both(
            """
        async def main(barrier=None):
            go, started = threading.Event(), []
            tasks = await hold(go, 3, started)
            await until(lambda: len(started) == 3)
            if barrier:
                barrier.wait(30)
            go.set()
            await asyncio.gather(*tasks)
            return len(started)
        for _ in range(2):
            print(run(main), gone())
        barrier = threading.Barrier(4)
        runners = [threading.Thread(target=run, args=(main, barrier)) for _ in range(4)]
        [thread.start() for thread in runners]
        [thread.join(30) for thread in runners]
        print(gone())
        loop = new_loop()
        for _ in range(2):
            print(loop.run_until_complete(main()), gone())
        if GROUP:
            assert not threads._pools
        loop.close()
        """,
            loop,
        )
        == "3 True\n3 True\nTrue\n3 True\n3 True\n"
    )


def test_fewer_threads_are_kept_when_fewer_are_needed() -> None:
    assert (
        seen("""
        class Loop(asyncio.SelectorEventLoop):
            ahead = 0.0
            def time(self): return super().time() + self.ahead
        async def main():
            loop, go, started = asyncio.get_running_loop(), threading.Event(), []
            tasks = await hold(go, 20, started)
            await until(lambda: len(started) == 20)
            print(len(workers()))
            go.set()
            await asyncio.gather(*tasks)
            await run_sync(int)
            print(len(workers()))  # not at once
            for _ in range(3):
                loop.ahead += threads.IDLE + 1
                await run_sync(int)
            await until(lambda: len(workers()) < 20)
            await until(lambda: len(workers()) == 1)
            tasks = [asyncio.create_task(run_sync(int)) for _ in range(20)]
            print(sum(await asyncio.gather(*tasks)))
        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(main())
        print(gone())
    """)
        == "20\n20\n0\nTrue\n"
    )


def test_workers_share_a_queue() -> None:
    """As many threads as functions at once, however many there are one after another."""
    assert (
        seen("""
        async def main():
            for _ in range(50):
                await run_sync(int)
            assert len(workers()) == 1
            async def many():
                for _ in range(20):
                    await run_sync(int)
            await asyncio.gather(*(many() for _ in range(5)))
            print(1 <= len(workers()) <= 5, threads._pools[asyncio.get_running_loop()].running)
        run(main)
    """)
        == "True 0\n"
    )


def test_call_that_is_cancelled_before_its_thread_takes_it_leaves_the_thread_usable() -> None:
    assert (
        seen("""
        async def main():
            first = await run_sync(threading.current_thread)
            pool = threads._pools[asyncio.get_running_loop()]
            class Queue:
                get = pool.queue.get
                def put(self, job):
                    job[4].cancel()
                    original.put(job)
            original, pool.queue = pool.queue, Queue()
            try:
                await run_sync(print, "ran")
            except asyncio.CancelledError:
                print("cancelled")
            pool.queue = original
            await until(lambda: pool.running == 0)
            print(await run_sync(threading.current_thread) is first, len(workers()))
        run(main)
    """)
        == "cancelled\nTrue 1\n"
    )


def test_interpreter_waits_for_functions_that_run_at_its_exit() -> None:
    assert (
        both("""
        async def main():
            started, go = [], threading.Event()
            def work():
                started.append(1)
                go.wait(30)
                print("finished")
            task = asyncio.create_task(run_sync(work))
            await until(lambda: started)
            threading.Timer(0.2, go.set).start()
        run(main)
        print("left")
    """)
        == "left\nfinished\n"
    )


def test_process_that_is_forked_within_a_loop_has_threads_of_its_own() -> None:
    assert (
        both("""
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads
        async def main():
            await run_sync(int)
            read, write = os.pipe()
            pid = os.fork()
            if not pid:
                try:
                    asyncio._set_running_loop(None)
                    async def again(): return await asyncio.wait_for(run_sync(divmod, 7, 2), 20)
                    os.write(write, repr(asyncio.run(again())).encode())
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)
            os.close(write)
            print(os.read(read, 100), await run_sync(int))
            os.close(read)
        run(main)
    """)
        == "b'(3, 1)' 0\n"
    )


def test_results_and_arguments_are_not_kept() -> None:
    assert (
        seen("""
        class Thing: pass
        async def main():
            thing = Thing()
            argument = weakref.ref(thing)
            result = weakref.ref(await run_sync(lambda given: Thing(), thing))
            del thing
            await until(lambda: argument() is None and result() is None)
            print(len(workers()))
        gc.disable()
        run(main)
    """)
        == "1\n"
    )


@pytest.mark.skipif("sys.version_info < (3, 12)", reason="eager tasks came with Python 3.12")
def test_eager_tasks_wait_for_their_threads() -> None:
    assert both("""
        async def main():
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
            tasks = [asyncio.create_task(run_sync(divmod, n, 2)) for n in range(3)]
            print(await asyncio.gather(*tasks))
            async with anyio.create_task_group() as group:
                for n in range(3):
                    group.start_soon(run_sync, divmod, n, 2)
            print(anyio.to_thread.current_default_thread_limiter().borrowed_tokens)
        run(main)
        print(gone())
    """).endswith("0\nTrue\n")
