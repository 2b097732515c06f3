"""Which figures a report has. Planning them costs nothing: matplotlib is loaded when one is drawn."""

from moeprobe.findings.result import Result
from moeprobe.reporting import figures_depth, figures_experts, figures_findings, figures_load, figures_scale
from moeprobe.reporting.canvas import Picture
from moeprobe.reporting.grouping import problems


def pictures(result: Result) -> dict[str, Picture]:
    """Plan the figures that this result has numbers for, by name, in the order of the report."""
    planned = [
        figures_findings.picture(f"finding-{place}", group, result) for place, group in enumerate(problems(result), 1)
    ]
    planned += [
        figures_depth.drift(result),
        figures_load.heatmap(result),
        figures_load.max_vio(result),
        figures_depth.firmness(result),
        figures_depth.bias(result),
        figures_depth.magnitudes(result),
        figures_scale.scale(result),
        figures_experts.shares(result),
        figures_experts.sources(result),
        figures_experts.drops(result),
    ]
    return {picture.name: picture for picture in planned if picture}
