"""Checkers for the exercises of *Why graphs*. All times are whole microseconds."""

import random
from collections.abc import Callable, Sequence


def check_saved(saved_us: Callable[[int, int, list[int], int], int]) -> None:
    """*Why graphs*: what one graph saves, for kernels of any length behind any queue."""
    rng = random.Random(21)
    cases = [(6, 8, [1] * 20, 0), (6, 8, [40] * 20, 0), (6, 8, [2] * 9 + [300], 0),
             (6, 8, [300] + [2] * 9, 0), (6, 8, [1] * 20, 1000), (6, 8, [1] * 20, 50), (6, 8, [3], 0)]
    for _ in range(40):
        kernels = rng.choices((1, 2, 5, 20, 100), k=rng.randint(1, 12))
        cases.append((rng.randint(3, 9), rng.randint(3, 9), kernels, rng.choice((0, 0, 15, 60))))
    for launch_us, replay_us, kernels_us, queued_us in cases:
        eager, _ = run(launch_us, kernels_us, queued_us)
        wanted = eager - max(replay_us, queued_us) - sum(kernels_us)
        found = saved_us(launch_us, replay_us, list(kernels_us), queued_us)
        assert found == wanted, (f"launch {launch_us}, replay {replay_us}, kernels {kernels_us}, "
                                 f"queued {queued_us}: expected {wanted}, got {found}")
    print("passed")


def check_waits(step_us: Callable[[int, list[int], set[int]], int]) -> None:
    """*Why graphs*: a step in which the host waits for some of the kernels."""
    rng = random.Random(22)
    cases = [(5, [2] * 6, set()), (5, [2] * 6, {2}), (5, [40, 2, 2, 2], {0}), (5, [40, 40, 2, 2], {1}),
             (5, [2, 2, 40], {2}), (5, [12] * 6, {0, 1, 2, 3, 4, 5})]
    for _ in range(40):
        kernels = rng.choices((1, 2, 5, 20, 100), k=rng.randint(1, 10))
        waits = {i for i in range(len(kernels)) if rng.random() < 0.3}
        cases.append((rng.randint(3, 9), kernels, waits))
    for launch_us, kernels_us, waits in cases:
        wanted, _ = run(launch_us, kernels_us, 0, waits)
        found = step_us(launch_us, list(kernels_us), set(waits))
        assert found == wanted, (f"launch {launch_us}, kernels {kernels_us}, waits after "
                                 f"{sorted(waits)}: expected {wanted}, got {found}")
    print("passed")


def check_paid_off(steps_until_paid: Callable[[int, int, int], int | None]) -> None:
    """*Why graphs*: the least number of steps after which a capture costs no more than it saved."""
    rng = random.Random(23)
    cases = [(4000, 900, 200), (4200, 900, 200), (4000, 200, 200), (4000, 190, 200), (100, 900, 200)]
    cases += [(rng.randint(1, 9000), rng.randint(100, 900), rng.randint(50, 300)) for _ in range(60)]
    for capture_us, eager_us, replay_us in cases:
        saved = eager_us - replay_us
        wanted = -(-capture_us // saved) if saved > 0 else None
        try:
            found = steps_until_paid(capture_us, eager_us, replay_us)
        except ZeroDivisionError:
            found = "a division by zero"
        assert found == wanted and not isinstance(found, float), (
            f"capture {capture_us}, eager {eager_us}, replay {replay_us}: "
            f"expected {wanted}, got {found}")
    print("passed")


def run(launch_us: int, kernels_us: Sequence[int], queued_us: int,
        waits: Sequence[int] | set[int] = ()) -> tuple[int, int]:
    """When GPU and host are done with a step that starts at 0: the oracle."""
    host, gpu = 0, queued_us
    for i, kernel_us in enumerate(kernels_us):
        host += launch_us
        gpu = max(gpu, host) + kernel_us
        if i in waits:
            host = gpu
    return gpu, host
