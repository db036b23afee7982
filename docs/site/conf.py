"""The site that `make docs` makes. The source directory is the whole checkout, because documents link to its files."""

project = "nftlb"
project_copyright = "the nftlb authors"
extensions = ["myst_parser"]
root_doc = "docs/site/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/**",
    "rules/README.md",
    "bench/README.md",
    "build/reference/*.md",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

# Anchors are those of GitHub, so that links work there too; the tests of links use the same rule.
myst_heading_anchors = 4
myst_links_external_new_tab = False

html_theme = "furo"
html_title = "nftlb"
html_copy_source = False
html_show_sphinx = False
