"""``python -m tests.chaos --minutes 60 --seed 7``, from the root of the project: chaos, until something is wrong.

Prints the seed first and a summary at the end; ends with 1 at the first violation, and says how to repeat it. What
happens follows from the seed, when it happens does not: a violation may need several runs to come again.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).parents[1] / "support")
)  # the fixtures of the tests are modules beside each other


def main() -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: 1)")
    parser.add_argument("--seed", type=int, default=None, help="what decides (default: at random, and printed)")
    parser.add_argument("--group", action="store_true", help="a group of hosts in place of a kernel")
    parser.add_argument("--verbose", action="store_true", help="tell everything as it happens")
    options = parser.parse_args()
    seed = random.randrange(1 << 31) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory(prefix="chaos-") as private:
        # The user's own Jupyter, IPython and targets are none of this run's business.
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "TMPDIR"):
            folder = Path(private, name.lower())
            folder.mkdir(mode=0o700)
            os.environ[name] = str(folder)
        tempfile.tempdir = os.environ["TMPDIR"]
        for name in [name for name in os.environ if name.startswith(("FLAME_", "PYRO_"))]:
            del os.environ[name]
        return _run(seed, options.minutes * 60, options.verbose, options.group)


def _run(seed: int, seconds: float, verbose: bool, is_group: bool) -> int:
    from .group import GroupChaos
    from .ledger import Violation
    from .run import Chaos

    print(f"seed {seed}, {seconds:g} s", flush=True)
    chaos = (GroupChaos if is_group else Chaos)(seed, seconds, verbose)
    wrong: BaseException | None = None
    try:
        chaos.run()
    except (Violation, AssertionError) as e:
        wrong = e
    except KeyboardInterrupt:
        print("stopped")
    print("steps: " + ", ".join(f"{name} {count}" for name, count in sorted(chaos.done.items())))
    print("faults: " + ", ".join(f"{name} {count}" for name, count in sorted(chaos.faults.items())))
    print(f"{chaos.cells} cells, {chaos.characters} characters, {chaos.cuts} cuts, slowest {chaos.slowest:.1f} s")
    if wrong is None:
        print("no violation")
        return 0
    print(f"\n{chaos.diary}\n\nVIOLATION: {wrong}")
    print(f"to repeat it: python -m tests.chaos --seed {seed} --minutes {seconds / 60:g}{' --group' * is_group}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
