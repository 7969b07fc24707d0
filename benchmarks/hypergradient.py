"""Forward-mode against unrolled reverse-mode hypergradients: time and peak memory over the number of inner steps H.

Each setting runs in a process of its own, because peak memory is that of a process. The network is the one of AGL with a hidden
layer, large enough that memory is seen over the interpreter's own. An outer step prepares its batches, takes H inner steps with
the derivative beside them, and differentiates the outer loss; an ordinary step prepares its batch, takes a gradient, steps Adam.
The last column is the outer step's cost in ordinary steps for each inner step.

    python benchmarks/hypergradient.py            # about two minutes on two cores
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

STEPS = (1, 2, 4, 8, 12)
METHODS = ("forward", "unrolled", "difference")
BATCH, DIM, HIDDEN, FACTORS, PRIMARY, AUXILIARY = 64, 512, 1024, 64, 50, 8000


def measure(method: str, steps: int, repeats: int) -> dict[str, float]:
    """Return seconds of one hypergradient and of one ordinary step, and the process's peak memory, MiB."""
    import torch

    from expressor.systems.agl.losses import Heads, prepare, slide_losses
    from expressor.systems.agl.network import FeatureTrunk, SharedNetwork
    from expressor.systems.agl.weighting import Threshold
    from expressor.train import bilevel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    n_genes = PRIMARY + AUXILIARY
    network = SharedNetwork(FeatureTrunk(DIM, FACTORS, hidden=HIDDEN), FACTORS, n_genes)
    member = (torch.arange(BATCH) % 3 == torch.arange(3)[:, None]).float()

    x, measured = torch.randn(BATCH, DIM), torch.randn(BATCH, n_genes)

    def batch(genes: int) -> dict[str, torch.Tensor]:
        return {"x": x, **prepare(measured[:, :genes], member)}

    rule = bilevel.AdamRule(lr=1e-3)
    weighting = Threshold(network, AUXILIARY, tau=0.01, steps=steps, rule=rule, lr=0.01, warm=False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    def ordinary() -> None:
        fit = batch(n_genes)
        optimizer.zero_grad(set_to_none=True)
        weight = torch.ones(n_genes)
        weight[PRIMARY:] = weighting.weights()
        losses = slide_losses(Heads(*network(fit["x"], n_genes)), fit)
        ((weight * losses).sum() / weight.sum()).backward()
        optimizer.step()

    weights = {name: one.detach() for name, one in network.named_parameters()}
    run = getattr(bilevel, f"{method}_hypergradient")
    given = (weighting._inner, weighting._outer, weights, weighting.threshold.detach())

    def hyper() -> None:
        run(*given, [batch(n_genes)] * steps, batch(PRIMARY), rule=rule)

    def seconds(function: Callable[[], None]) -> float:
        start = time.process_time()
        function()
        return time.process_time() - start

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    hyper()
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    ordinary()
    # Taken in turn, so that a busy machine slows both; the least of each is compared.
    pairs = [(seconds(hyper), seconds(ordinary)) for _ in range(repeats)]
    return {"seconds": min(one for one, _ in pairs), "ordinary": min(one for _, one in pairs), "memory": memory}


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "H"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measure(chosen.one[0], int(chosen.one[1]), chosen.repeats)))
        return
    print(
        f"batch {BATCH}, trunk {DIM}-{HIDDEN}-{FACTORS}, {PRIMARY} + {AUXILIARY} heads, float32, one thread, CPU seconds"
    )
    print(f"{'method':<11}{'H':>3}{'seconds':>10}{'MiB':>8}{'ordinary steps / H':>20}")
    for method in METHODS:
        for steps in STEPS:
            command = [sys.executable, __file__, "--one", method, str(steps), "--repeats", str(chosen.repeats)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            one = json.loads(done.stdout)
            ratio = one["seconds"] / one["ordinary"] / steps
            print(f"{method:<11}{steps:>3}{one['seconds']:>10.3f}{one['memory']:>8.0f}{ratio:>20.2f}", flush=True)


if __name__ == "__main__":
    main()
