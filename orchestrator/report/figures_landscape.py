"""The landscape as an interactive figure. Its library is some 5 MB, so it is imported only when there is one."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from orchestrator.report.drawing import GROUP_COLOURS
from orchestrator.report.grouping import by_known
from trainables.config import METHODS
from trainables.data.rois import GROUPS

SYMBOLS = {"untuned": "circle", "contrastive": "square", "regression": "triangle-up", "pooled-avg": "diamond"}
PLANES = ((0, 1), (0, 2), (1, 2))


def interactive_script() -> str:
    """The library's own source, for a page without network."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def interactive_landscape(name: str, content: Mapping[str, Any], oracle: str) -> str:
    """HTML of the landscape on the image set ``name``: hover names networks, menus choose colours and axes.

    The page must hold `interactive_script` before it.
    """
    import plotly.graph_objects as go
    from plotly.io import to_html

    by_method = _traces(go, content, oracle, "methods")
    by_group = _traces(go, content, oracle, "roi_groups")
    star = _trace(go, content, [n for n, name_ in enumerate(content["names"]) if name_ == oracle], oracle)
    star.marker = {"symbol": "star", "size": 16, "color": "#222222"}
    traces = [*by_method, *by_group, star]
    for trace in by_group:
        trace.visible = False
    figure = go.Figure(traces)
    figure.update_layout(**_layout(name, content), updatemenus=_menus(traces, len(by_method), content))
    identity = "landscape-" + "".join(c if c.isalnum() else "-" for c in name)
    settings = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}
    return str(
        to_html(
            figure, full_html=False, include_plotlyjs=False, include_mathjax=False, div_id=identity, config=settings
        )
    )


def _traces(go: Any, content: Mapping[str, Any], oracle: str, field: str) -> list[Any]:
    """A trace for each method (coloured by accuracy) or each ROI group (in its colour)."""
    kinds = [kind or content["methods"][n] or "other" for n, kind in enumerate(content[field])]
    networks = [n for n, name in enumerate(content["names"]) if name != oracle]
    traces = []
    for kind in by_known((kinds[n] for n in networks), (*METHODS, *GROUPS)):
        members = [n for n in networks if kinds[n] == kind]
        trace = _trace(go, content, members, kind)
        symbols = [SYMBOLS.get(content["methods"][n], "cross") for n in members]
        line = {"color": "#222222", "width": 0.5}
        if field == "methods":
            accuracies = [content["accuracies"][n] for n in members]
            trace.marker = {"symbol": symbols, "size": 9, "color": accuracies, "coloraxis": "coloraxis", "line": line}
        else:
            trace.marker = {"symbol": symbols, "size": 9, "color": GROUP_COLOURS.get(kind, "#6b6b6b"), "line": line}
        traces.append(trace)
    return traces


def _trace(go: Any, content: Mapping[str, Any], members: list[int], name: str) -> Any:
    texts = [
        f"{html.escape(str(content['names'][n]))}<br>accuracy {_number(content['accuracies'][n])}" for n in members
    ]
    columns = {axis: [content["coordinates"][n][axis] for n in members] for axis in range(_n_axes(content))}
    return go.Scatter(
        x=columns[0], y=columns[1], mode="markers", name=html.escape(name), text=texts, hoverinfo="text", meta=columns
    )


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _n_axes(content: Mapping[str, Any]) -> int:
    return min(3, len(content["imaginary"]))


def axis_name(content: Mapping[str, Any], axis: int) -> str:
    """``axis 2 (imaginary)``."""
    return f"axis {axis + 1}" + (" (imaginary)" if content["imaginary"][axis] else "")


def _layout(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    networks = [
        a for a, n in zip(content["accuracies"], content["names"], strict=True) if n and a is not None and a < 1
    ]
    return {
        "template": "simple_white",
        "title": {"text": f"{html.escape(name)}", "x": 0.02, "y": 0.98, "font": {"size": 15}},
        "height": 560,
        "margin": {"l": 50, "r": 10, "t": 110, "b": 170},
        "legend": {"orientation": "h", "y": -0.17},
        "coloraxis": {
            "colorscale": "Cividis",
            "cmin": min(networks, default=0),
            "cmax": max(networks, default=1),
            "colorbar": _colour_bar(),
        },
        "xaxis": {"title": {"text": axis_name(content, 0)}},
        "yaxis": {"title": {"text": axis_name(content, 1)}},
    }


def _colour_bar() -> dict[str, Any]:
    """Below everything else: at the side of a narrow page there is no room for it."""
    title = {"text": "accuracy", "side": "bottom"}
    return {"title": title, "orientation": "h", "thickness": 10, "len": 0.8, "x": 0.5, "y": -0.42, "yanchor": "top"}


def _menus(traces: list[Any], n_methods: int, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    shown = [[place < n_methods for place in range(len(traces) - 1)] + [True]]
    shown.append([not visible for visible in shown[0][:-1]] + [True])
    colours = [
        {"label": label, "method": "update", "args": [{"visible": visible}, {"coloraxis.showscale": scale}]}
        for label, visible, scale in zip(("accuracy", "ROI group"), shown, (True, False), strict=True)
    ]
    planes = [
        {
            "label": f"axes {x + 1} and {y + 1}",
            "method": "update",
            "args": [
                {"x": [trace.meta[x] for trace in traces], "y": [trace.meta[y] for trace in traces]},
                {"xaxis.title.text": axis_name(content, x), "yaxis.title.text": axis_name(content, y)},
            ],
        }
        for x, y in PLANES
        if y < _n_axes(content)
    ]
    place: dict[str, Any] = {"y": 1.02, "yanchor": "bottom", "xanchor": "left", "bgcolor": "#ffffff"}
    return [{"buttons": colours, "x": 0, **place}, {"buttons": planes, "x": 0.36, **place}]
