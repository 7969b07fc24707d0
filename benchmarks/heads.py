"""Head skipping: time of a training step against the number k of auxiliary genes whose weight is 1e-3 or more.

python benchmarks/heads.py            # half a minute on two cores
"""

import argparse
import time

BATCH, FEATURES, FACTORS, PRIMARY, AUXILIARY = 128, 64, 6, 50, 16_000


def main() -> None:
    """Print one table."""
    import torch

    from expressor.systems.agl.losses import Heads, prepare, slide_losses
    from expressor.systems.agl.network import FeatureTrunk, SharedNetwork
    from expressor.systems.agl.weighting import FixedWeights

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    torch.manual_seed(0)
    measured = torch.randn(BATCH, PRIMARY + AUXILIARY)
    member = (torch.arange(BATCH) % 3 == torch.arange(3)[:, None]).float()
    x = torch.randn(BATCH, FEATURES)
    print(f"batch {BATCH}, {FEATURES} features, {FACTORS} factors, {PRIMARY} + {AUXILIARY} heads, float32, one thread")
    print(f"{'k':>7}{'ms a step':>12}{'of all':>9}")
    everything = 0.0
    for k in (AUXILIARY, AUXILIARY // 2, AUXILIARY // 4, AUXILIARY // 16, AUXILIARY // 64, 0):
        network = SharedNetwork(FeatureTrunk(FEATURES, FACTORS), FACTORS, PRIMARY + AUXILIARY)
        weighting = FixedWeights((torch.arange(AUXILIARY) < k).float())
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

        def step(network=network, weighting=weighting, optimizer=optimizer) -> None:  # type: ignore[no-untyped-def]
            n_genes = PRIMARY + weighting.n_active
            batch = prepare(measured[:, :n_genes], member)
            losses = slide_losses(Heads(*network(x, n_genes)), batch)
            optimizer.zero_grad(set_to_none=True)
            weighting.objective(losses, PRIMARY).backward()
            optimizer.step()

        step()
        best = float("inf")
        for _ in range(repeats):
            start = time.process_time()
            step()
            best = min(best, time.process_time() - start)
        everything = everything or best
        print(f"{k:>7}{1e3 * best:>12.2f}{best / everything:>9.2f}", flush=True)


if __name__ == "__main__":
    main()
