"""One training step of a linear layer on the edges of an orthology graph against a dense layer under a mask: time and memory.

20,000 by 20,000 genes, 26,000 edges, 64 cells. A step is forward, backward to the weights, and weights moved down the gradient.
The dense layer multiplies its matrix with the mask in every step; matrix, mask, product and gradients need several GB. Each layer
runs in a process of its own, because peak memory is that of a process. Memory is what the layer and its steps add to a process that
has taken the same steps on 10 genes, so that what torch loads on first use does not count.

    python benchmarks/masked_linear.py            # about half a minute
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

BATCH = 64


def peak() -> float:
    """Return the process's peak memory so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(layer: str, genes: int, edges: int, repeats: int) -> dict[str, float]:
    """Return the CPU seconds of one step, the memory that steps added, MiB, and the mean absolute gradient."""
    import torch

    torch.set_num_threads(1)
    build(layer, 10, 20)[1]()
    before = peak()
    gradient, step = build(layer, genes, edges)
    step()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    return {"seconds": min(seconds), "memory": peak() - before, "gradient": float(gradient().abs().mean())}


def build(layer: str, genes: int, edges: int) -> tuple[Callable[[], Any], Callable[[], None]]:
    """Return the layer's last gradient on the edges, and its step."""
    import torch

    from expressor.nn.masked_linear import MaskedLinear

    generator = torch.Generator().manual_seed(0)
    # Every gene once, and further edges at random: the pairs are distinct, which is all that matters here.
    pairs = torch.randint(genes * genes, (edges - genes,), generator=generator)
    pairs = torch.cat([torch.arange(genes) * (genes + 1), pairs]).unique()
    rows, columns = pairs // genes, pairs % genes
    x = torch.rand(BATCH, genes, generator=generator)
    above = torch.rand(BATCH, genes, generator=generator)
    if layer == "edges":
        module = MaskedLinear(rows, columns, (genes, genes))
        weight = module.weight
    else:
        weight = torch.nn.Parameter(torch.zeros(genes, genes))
        mask, bias = torch.zeros(genes, genes), torch.nn.Parameter(torch.zeros(genes))
        with torch.no_grad():
            weight[rows, columns] = mask[rows, columns] = 1.0

    def step() -> None:
        weight.grad = None
        y = module(x) if layer == "edges" else torch.nn.functional.linear(x, weight * mask, bias)
        y.backward(above)
        with torch.no_grad():
            weight.sub_(weight.grad, alpha=1e-3)

    def gradient() -> torch.Tensor:
        return weight.grad if layer == "edges" else weight.grad[rows, columns]

    return gradient, step


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--edges", type=int, default=26_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", metavar="LAYER", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measure(chosen.one, chosen.genes, chosen.edges, chosen.repeats)))
        return
    print(
        f"{chosen.genes} x {chosen.genes} genes, {chosen.edges} edges, batch {BATCH}, float32, one thread, CPU seconds"
    )
    print(f"{'layer':<8}{'seconds':>10}{'MiB':>10}{'mean |gradient|':>18}")
    found = {}
    sizes = ["--genes", str(chosen.genes), "--edges", str(chosen.edges), "--repeats", str(chosen.repeats)]
    for layer in ("dense", "edges"):
        command = [sys.executable, __file__, "--one", layer, *sizes]
        found[layer] = one = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(f"{layer:<8}{one['seconds']:>10.4f}{one['memory']:>10.0f}{one['gradient']:>18.4f}", flush=True)
    times = found["dense"]["seconds"] / found["edges"]["seconds"]
    memory = found["dense"]["memory"] / found["edges"]["memory"]
    print(f"dense / edges: {times:.0f} times the time, {memory:.0f} times the memory")


if __name__ == "__main__":
    main()
