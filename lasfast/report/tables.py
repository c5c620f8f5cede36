"""Tables of candidates and winners."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from rich import box
from rich.table import Table

from lasfast.constraints import Bound
from lasfast.measurements.schema import SECONDS
from lasfast.report.run import Candidate, Run
from lasfast.spaces.names import short_name
from lasfast.study.certainty import Certainty
from lasfast.study.comparison import (
    AHEAD,
    CHANCE,
    FAVORED,
    ITSELF,
    RANDOM,
    SCRATCH,
    UNSURE,
    Baseline,
    Comparison,
    fewest_random,
)
from lasfast.study.result import format_params, format_top1

MOST_IMAGES = 1_000_000
"""More validation images than that are no advice."""


def ranking_table(title: str, candidates: Iterable[Candidate]) -> Table:
    """Return a table of the candidates of a step, the best first."""
    ranked = sorted(candidates, key=lambda one: -one.measurement.top1)
    costs = cost_columns(ranked)
    known = ["loss"] if any(not math.isnan(one.measurement.loss) for one in ranked) else []
    table = make_table(title, "rank", "architecture", "top-1", *known, *costs)
    for rank, one in enumerate(ranked, start=1):
        style = "bold green" if one.won else None
        cells = [
            format_top1(one.measurement),
            *(f"{one.measurement.loss:.3f}" for _ in known),
            *(cost(one) for cost in costs.values()),
        ]
        table.add_row(str(rank), one.name, *cells, style=style)
    return table


def winners_table(title: str, winners: Iterable[Candidate]) -> Table:
    """Return a table of the winner of each depth, the shallowest first."""
    shown = list(winners)
    costs = cost_columns(shown)
    table = make_table(title, "depth", "assignment", "top-1", *costs)
    for one in shown:
        cells = [format_top1(one.measurement), *(cost(one) for cost in costs.values())]
        table.add_row(str(one.depth), one.name, *cells)
    return table


def front_table(title: str, front: Iterable[Candidate]) -> Table:
    """Return a table of a Pareto front, in the order given."""
    shown = list(front)
    costs = cost_columns(shown)
    table = make_table(title, "architecture", "top-1", *costs)
    for one in shown:
        table.add_row(one.name, format_top1(one.measurement), *(cost(one) for cost in costs.values()))
    return table


def comparison_table(title: str, comparison: Comparison) -> Table:
    """Return a table of what a search found, and of what it is compared with."""
    columns, *rows = comparison_rows(comparison)
    table = make_table(title, *columns)
    for row in rows:
        table.add_row(*row)
    return table


def comparison_rows(comparison: Comparison) -> list[list[str]]:
    """Return the names of the columns, the row of what a search found, and those of what it is beside."""
    quantity = partial(Bound(comparison.cost).quantity, digits=4)
    top1 = format_top1(comparison)
    return [
        ["beside", "architecture", comparison.cost, "top-1", "the winner's lead", "the winner is"],
        ["winner", short_name(comparison.winner), quantity(comparison.winner_cost), top1, "", ""],
        *(
            [
                one.kind,
                f"{len(one.architectures)} of them" if one.kind == RANDOM else _name(one),
                " to ".join(dict.fromkeys(map(quantity, one.costs))),
                format_top1(one),
                "" if one.verdict == ITSELF else _points(one),
                one.verdict,
            ]
            for one in comparison.baselines
        ),
    ]


def _name(one: Baseline) -> str:
    return short_name(one.architectures[0])


def _points(one: Baseline) -> str:
    error = "" if math.isnan(one.lead_error) else f" ± {100 * one.lead_error:.1f}"
    return f"{100 * one.lead:+.1f}{error} points"


def comparison_text(comparison: Comparison) -> str:
    """Return the sentences that say how the comparison was made, what it shows, and what it does not."""
    if comparison.weights == SCRATCH:
        return _scratch_text(comparison)
    lines = [
        f"Of {len(one.architectures)} random ones, top-1 has a standard deviation of "
        f"{100 * one.deviation:.1f} points; {one.better or 'none'} had a higher one than the winner."
        for one in comparison.baselines
        if one.kind == RANDOM and len(one.architectures) > 1
    ]
    paired = all(one.paired for one in comparison.baselines)
    images = "leads are those on the same images" if paired else "errors are those of separate images"
    if math.isnan(comparison.standard_error):
        images = "on how many images is not known, so that no lead is told from noise"
    lines.append(
        f"All were measured together; {images}. The winner is the best of {comparison.measured} on these, so "
        f"it counts as better only from {comparison.errors_of_a_lead:.1f} standard errors on."
    )
    if comparison.weights == FAVORED:
        lines.append(
            "The supernet was trained for the candidates of the search and the whole network. Others would "
            "have better weights, too, if it had been trained for them. So a winner that is ahead of them "
            "need not be better, and one that is not ahead has not been shown to be better than chance."
        )
        if advice := _advice(comparison):
            lines.append(f"What would help: `--retrain {advice} and the winner from scratch.")
    return "\n".join(lines)


def _advice(comparison: Comparison) -> str:
    """Return the option that trains enough random ones and what it does, after a backtick; "" for none."""
    finalists = comparison.measured if comparison.weights == SCRATCH else 1
    fewest, others = fewest_random(finalists), comparison.others
    if others == 0:
        return ""
    if others is not None and others <= fewest:
        return f"--retrain-random {others}` trains all others of depth {comparison.winner_cost:.0f}"
    return f"--retrain-random {fewest}` trains random ones"


def _scratch_text(comparison: Comparison) -> str:
    """Return what a comparison of networks says that were trained from scratch."""
    winner, lines, drawn = short_name(comparison.winner), [], None
    for one in comparison.baselines:
        if one.kind == RANDOM:
            drawn = one
        elif one.verdict == ITSELF:
            lines.append(f"{winner} is the {one.kind} one itself.")
        else:
            said = {UNSURE: "not distinguishable from", AHEAD: "ahead of"}.get(one.verdict, one.verdict)
            lines.append(f"{winner} is {said} {_name(one)}, the {one.kind} one (difference {_points(one)}).")
    if drawn is None:
        lines.append(
            "Each was trained once. Another training would give other accuracies, which these errors do not "
            "count."
        )
        if advice := _advice(comparison):
            more = "too, and says how probably one of them would do as well"
            lines.append(f"What would help: `{advice}, {more}.")
        return "\n".join(lines)
    count, chance = len(drawn.architectures), drawn.chance(comparison.measured)
    lines.append(
        f"{winner} is better than {count - drawn.better - drawn.level} of {count} random ones, as good as "
        f"{drawn.level}, and worse than {drawn.better}. If it had been drawn at random, too, it would do as "
        f"well with a probability of {100 * chance:.0f} %; up to {100 * CHANCE:.0f} %, it counts as better. "
        "That holds whatever the noise of training."
    )
    if count == comparison.others and count < fewest_random(comparison.measured):
        lines.append("There are no others, and these are too few to call one better. Other seeds would help.")
    elif count < fewest_random(comparison.measured):
        lines.append(f"What would help: `{_advice(comparison)}.")
    return "\n".join(lines)


def certainty_text(certainty: Certainty) -> str:
    """Return the sentences that say whether the winner can be told from the others, and what would help."""
    winner, rival, alike = certainty.winner, certainty.rival, certainty.alike
    difference = f"(difference {100 * certainty.difference:+.1f} ± {100 * certainty.error:.1f} points)"
    if certainty.rival_is_alike:
        others = "another" if alike == 2 else f"{alike - 1} others"
        more = f", nor from {others} of {certainty.measured}" if alike > 1 else ""
        lines = [f"{winner} is not distinguishable from {rival} {difference}{more}."]
    else:
        lines = [
            f"{winner} differs from {rival}, the best of the others, by more than noise {difference}; from "
            f"{alike or 'none'} of {certainty.measured - 1} it is not distinguishable."
        ]
    if certainty.tau is not None:
        lines.append(
            f"One half of the {certainty.images:,} validation images ranks them as the other half does with "
            f"Kendall's tau {certainty.tau:.2f}: 1 is the same order, 0 is chance."
        )
    if certainty.rival_is_alike:
        advice = "What would help: longer training, which spreads accuracies"
        if certainty.images_needed is not None and certainty.images_needed <= MOST_IMAGES:
            advice += f", or some {certainty.images_needed:,} validation images, which tell these two apart"
        lines.append(f"{advice}.")
    return "\n".join(lines)


def end_text(run: Run) -> str:
    """Return that a search ended because its seconds were spent; "" where they did not end it."""
    if not run.ended_by_seconds:
        return ""
    return f"The search ended because its {run.description['budget'][SECONDS]:,.10g} seconds were spent"


def unknown_noise_text(run: Run) -> str:
    """Return that nothing tells how large the noise of a search is, and what would; "" where it is known."""
    if run.best is None or not math.isnan(run.best.measurement.standard_error):
        return ""
    return (
        "How far chance moves the accuracies of the table is not known: the number of images that they were "
        "measured on (--table-images) would tell it, or several runs of each network."
    )


def choice_text(run: Run) -> str:
    """Return what it means that the best is cheaper than the most accurate; "" where it is that one.

    Of few validation images a standard error is large, and so is the difference in cost that may hide in it.
    """
    best, highest = run.best, run.highest
    if best is None or highest is None or best.name == highest.name:
        return ""
    images, error = highest.measurement.images, 100 * highest.measurement.standard_error
    if images is None or 100 * (highest.measurement.top1 - best.measurement.top1) > error:
        return ""  # the best was chosen by another rule
    times = f" for {highest.cost / best.cost:.1f} times the cost" if best.cost else ""
    return (
        f"The best was chosen by its cost, too: of {images:,} validation images, one standard error is "
        f"{error:.1f} points, and the cheapest within it wins. The fewer the images, the cheaper it may be, "
        f"and the worse. The highest is {format_top1(highest.measurement)}, of {highest.name}{times}: "
        "`highest` names it in commands, and `result.highest` in Python."
    )


def cost_columns(shown: Sequence[Candidate]) -> dict[str, Callable[[Candidate], str]]:
    """Return the columns of costs that candidates have, each with a function that gives its text."""

    def megas(cost: float | None) -> str:
        return "" if cost is None else f"{cost / 1e6:.1f}"

    columns: dict[str, Callable[[Candidate], str]] = {
        "MFLOPs": lambda one: megas(one.flops),
        "params": lambda one: "" if one.params is None else format_params(one.params),
    }
    if any(one.bitops for one in shown):
        columns["Mbitops"] = lambda one: megas(one.bitops)
    if latency := next((one.latency for one in shown if one.latency), None):
        columns[f"{latency[0]} (ms)"] = lambda one: f"{1e3 * one.latency[1]:.2f}" if one.latency else ""
    if own := next((one.own for one in shown if one.own), None):
        quantity = partial(Bound(own[0]).quantity, digits=4)
        columns[own[0]] = lambda one: quantity(one.own[1]) if one.own else ""
    return columns


def make_table(title: str, *columns: str) -> Table:
    """Return an empty table, in the style of all tables here."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        if column in ("architecture", "assignment", "beside", "supernet", "predicted by"):
            # An option for each of many layers takes several lines.
            table.add_column(column, overflow="fold", max_width=60)
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table
