"""How the page looks and is mounted: system fonts, calm colours, nothing from another host."""

from typing import Any

CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
#title h1 { font-size: 1.7rem; margin: .2rem 0 .1rem; }
#title p { margin: 0; max-width: 46rem; }
figure.conversion { margin: .6rem 0 0; }
figure.conversion svg { width: 100%; height: auto; display: block; }
figure.conversion text { font: 12.5px system-ui, sans-serif; fill: var(--body-text-color); }
figure.conversion text.title { font-weight: 600; font-size: 14px; }
figure.conversion text.left, figure.conversion text.end { text-anchor: end; }
figure.conversion text.middle { text-anchor: middle; }
figure.conversion .frame { fill: none; stroke: var(--border-color-primary); }
figure.conversion .mark { stroke: var(--border-color-primary); stroke-width: .7; }
figure.conversion .tick { stroke: var(--body-text-color); }
figure.conversion polyline { fill: none; stroke-linejoin: round; }
figure.conversion polyline.source { stroke: #1d6fb8; stroke-width: 1.6; stroke-dasharray: 4 3; }
figure.conversion polyline.converted { stroke: #c2410c; stroke-width: 2.2; }
figure.conversion text.source { fill: #1d6fb8; }
figure.conversion text.converted { fill: #c2410c; }
.dark figure.conversion polyline.source { stroke: #7cc0ff; }
.dark figure.conversion text.source { fill: #7cc0ff; }
.dark figure.conversion polyline.converted { stroke: #fdba74; }
.dark figure.conversion text.converted { fill: #fdba74; }
figure.conversion figcaption { font-size: .9rem; margin-top: .3rem; }
table.scores { border-collapse: collapse; border: 0 !important; width: 100%; font-size: .92rem; }
table.scores caption { text-align: left; font-weight: 600; padding: .3rem 0; }
table.scores th, table.scores td { text-align: left; vertical-align: top;
  padding: .35rem .6rem .35rem 0 !important; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important; }
table.scores th:nth-child(3), table.scores td:nth-child(3) { width: 45%; }
@media (max-width: 640px) {
  figure.conversion { overflow-x: auto; }
  figure.conversion svg { min-width: 560px; }
}
table.scores td:nth-child(2) { font-variant-numeric: tabular-nums; font-weight: 600; }
a:focus-visible, button:focus-visible, input:focus-visible {
  outline: 3px solid #1d6fb8; outline-offset: 2px; }
"""


def mounted() -> dict[str, Any]:
    """Options for ``gradio.mount_gradio_app`` with which the page looks as meant and asks no other host."""
    import gradio as gr

    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="slate", text_size="md", **fonts)
    return {
        "theme": theme,
        "footer_links": ["settings"],
        "run_history": False,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "enable_monitoring": False,
        "show_error": True,
    }
