"""The listener's reward for listeners that take their time: they answer side by side.

TRL starts its `async` reward functions together, on an event loop in a thread of its own, and waits for all of them
(`GRPOTrainer._calculate_rewards`). Two things there differ from a plain reward function, and both matter only with
several processes:

- The thread has the machine's first GPU as its current one, whatever the process's own is (`rewards.own_gpu`).
- Rewards end in any order, and not in the same one in each process, but what processes say to each other is matched by
  order alone: two rewards would read each other's answers, or crash. So here they take turns, as they were started.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from lrt.ensemble import COMBINE, combined
from lrt.listener import Listener
from lrt.rewards import Asked, ListenerReward, RewardFunction, check_votes, log, on_all_processes, on_side, own_gpu

_last: dict[asyncio.AbstractEventLoop, asyncio.Event] = {}  # the turn of the reward that started last


def listener_reward(listeners: Sequence[Listener], how: str = "mean", verdict: bool = True) -> RewardFunction:
    """The reward of one listener or of several: the plain form where one local model listens alone, else the async.

    ValueError for no listener, and for a way to combine them that there is not.
    """
    if len(listeners) == 1 and how == "mean" and not hasattr(listeners[0], "p_first_async"):
        return ListenerReward(listeners[0], verdict)
    return AsyncListenerReward(listeners, how, verdict)


class AsyncListenerReward(ListenerReward):
    """One or several listeners' reward, combined by `how` (`lrt.ensemble`), as an `async` function in TRL's form.

    Listeners with `p_first_async` (`remote.RemoteListener`) are awaited side by side; the others run meanwhile in a
    thread, one after another, since two may be one model (with its adapter off).

    A listener with an unscored completion is left out of that pair's group, on every process; the group has None if no
    listener is left. Attributes and metrics are those of `ListenerReward`; with several listeners also
    `listener/left_out`, the share of (listener, group) left out, and for remote ones `listener/unscored/<reason>`, the
    number of traces in this call. `name` is TRL's name for the reward; two in one trainer need two.
    """

    def __init__(
        self, listeners: Sequence[Listener], how: str = "mean", verdict: bool = True, name: str = "listener_reward"
    ):
        if not listeners:
            raise ValueError("a listener's reward needs a listener")
        if how not in COMBINE:
            raise ValueError(f"listeners combine by {', '.join(COMBINE)}, not {how!r}")
        super().__init__(listeners[0], verdict)
        self.listeners, self.how, self.__name__ = list(listeners), how, name

    async def __call__(
        self,
        prompts=None,
        completions: Sequence = (),
        *,
        pair_text: Sequence[str],
        images: Sequence,
        vote: Sequence[int],
        pair_id: Sequence[str],
        log_metric: Callable[[str, float], None] | None = None,
        **_,
    ) -> list[float | None]:
        started = time.perf_counter()
        async with _turn() as earlier:
            check_votes(vote, pair_id)
            asked = Asked.of(completions, pair_text, images, pair_id, self.verdict)
            before = [dict(getattr(ear, "unscored", {})) for ear in self.listeners]
            p_K = await self._ask(asked)
            missing = {(k, name) for k, p in enumerate(p_K) for name in asked.unscored(p)}
            await earlier.wait()  # only now: the listeners' time is everyone's, the turn is for what processes exchange
            missing = await asyncio.to_thread(on_all_processes, missing)
        out_K = [{name for k, name in missing if k == ear} for ear in range(len(self.listeners))]
        self._report(out_K, before, set(pair_id), log_metric)
        self.count(asked, set.intersection(*out_K), started, log_metric)
        return combined([on_side(p, vote, pair_id, out) for p, out in zip(p_K, out_K, strict=True)], self.how)

    async def _ask(self, asked: Asked) -> list[list[float | None]]:
        """Each listener's p for each completion. Remote ones begin first: they read the images, which decode on first
        use, before the thread does."""

        def in_a_thread() -> dict[int, list]:
            with own_gpu():
                return {k: ear.p_first(*asked.groups) for k, ear in enumerate(self.listeners) if k not in remote}

        remote = [k for k, ear in enumerate(self.listeners) if hasattr(ear, "p_first_async")]
        calls = [self.listeners[k].p_first_async(*asked.groups) for k in remote]
        *answers, local = await asyncio.gather(*calls, asyncio.to_thread(in_a_thread))
        p_KBG = local | dict(zip(remote, answers, strict=True))
        return [asked.by_row(p_KBG[k], ear.name) for k, ear in enumerate(self.listeners)]

    def _report(self, out_K: list[set[str]], before: list[dict], here: set[str], log_metric) -> None:
        """Tell the log who was left out where (`here` are the pairs of this process), and why."""
        for ear, out in zip(self.listeners, out_K, strict=True):
            if out and len(self.listeners) > 1:
                log.warning("listener %s is left out for %s", ear.name, ", ".join(sorted(out)))
        if not log_metric:
            return
        if len(self.listeners) > 1:
            log_metric("listener/left_out", sum(len(out & here) for out in out_K) / max(1, len(here) * len(out_K)))
        for ear, counts in zip(self.listeners, before, strict=True):
            for reason, n in getattr(ear, "unscored", {}).items():
                if n > counts.get(reason, 0):
                    log_metric(f"listener/unscored/{reason}", n - counts.get(reason, 0))


@asynccontextmanager
async def _turn() -> AsyncIterator[asyncio.Event]:
    """What to wait for before talking to other processes: the end of the reward that was started before this one."""
    loop, mine = asyncio.get_running_loop(), asyncio.Event()
    before, _last[loop] = _last.get(loop), mine
    if before is None:
        before = asyncio.Event()
        before.set()
    try:
        yield before
    finally:
        mine.set()
        if _last.get(loop) is mine:
            del _last[loop]
