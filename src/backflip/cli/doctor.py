"""`backflip doctor`: the invariants, on the base that ships or on a user's model."""

from __future__ import annotations

from collections.abc import Sequence

from backflip.cli.options import Options
from backflip.cli.quiet import without_foreign_bars


def main(argv: Sequence[str]) -> int:
    """Print every finding as it comes; 1 if one failed."""
    parser = Options("doctor", "Check the invariants that training rests on.")
    parser.add_argument(
        "--model", metavar="PATH", help="folder or hub id of a causal LM (default: the base that ships)"
    )
    parser.add_argument(
        "--reward", metavar="PATH", help="folder or hub id of a reward model (default: one made from it)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="INT", help="of what is sampled (default: 0)")
    found = parser.read(argv[1:])
    from backflip.doctor import examine, load_subject_policy
    from backflip.rewards.model import SequenceRewardModel
    from backflip.worlds.reviews import assets

    without_foreign_bars()
    policy = load_subject_policy(assets() / "base" if found.model is None else found.model)
    reward = None if found.reward is None else SequenceRewardModel.load(found.reward)
    failed = held = idle = 0
    for finding in examine(policy, reward, found.seed):
        print("\n".join(finding.lines()), flush=True)
        failed += not finding.passed
        idle += finding.passed and finding.value is None
        held += finding.passed and finding.value is not None
    print(f"{held} hold, {idle} do not apply, {failed} do not hold")
    return 1 if failed else 0
