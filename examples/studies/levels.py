"""Skipping the whole forward against skipping its blocks: python examples/studies/levels.py [--prompts 2].

Both columns of a line have the same forwards (SCOPE by its placement, TaylorSeer by its interval, TeaCache by its
threshold); only the place differs: the velocity is made from earlier ones, or the residual of the blocks is. On the
demo model, against the unpatched latents and frames.
"""

from __future__ import annotations

from trial import Table, demo, mean, parser

SETTINGS = {
    **{f"scope, {x} times less, {how}": {"target_speedup": x, "predictor": how}
       for x in (2, 3, 4, 5.27) for how in ("auto", "hold")},
    **{f"taylorseer, N = {n}, O = {order}": {"policy": f"taylorseer:interval={n},max_order={order}"}
       for n in (2, 3, 4, 5) for order in (0, 1, 2)},
    **{f"teacache, {x} times less": {"policy": "teacache:ckpt_dir=none", "target_speedup": x} for x in (2, 3, 4)},
}  # fmt: skip
ONLY_RESIDUAL = {f"delta-dit, N = {n}": {"policy": f"delta-dit:interval={n}"} for n in (2, 3)}


def main() -> None:
    args = parser(__doc__, 2).parse_args()

    from benchmark.prompts import TUNING

    trial = demo(TUNING[: args.prompts], args.threads)
    table = Table("decisions", "times less", "PSNR, velocity", "PSNR, residual", "error, velocity", "error, residual")
    for name, settings in (SETTINGS | ONLY_RESIDUAL).items():
        levels = (None,) if name in ONLY_RESIDUAL else ("velocity", "residual")
        made = [trial.scores(**settings, **({"level": level} if level else {})) for level in levels]
        less = sum(score.generation["planned"][0]["speedup"] for score in made[0]) / len(made[0])
        decibels = [f"{mean(scores, 'psnr'):.2f}" for scores in made]
        errors = [f"{mean(scores, 'error'):.3f}" for scores in made]
        gap = [""] * (2 - len(made))
        table.row(name, f"{less:.2f}", *gap, *decibels, *gap, *errors)


if __name__ == "__main__":
    main()
