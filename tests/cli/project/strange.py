"""An application whose tasks have names in several scripts, wide ones among them, and names that no column has room for."""

from __future__ import annotations

from shop import gated

from stem_kombu import Stem

app = Stem("strange")
WIDE = "請求書.作成する.とても長い名前の仕事.東京支店"
LONG = "shop.department_of_very_long_names.section_four.subsection_nine.renders_an_image_of_a_catalogue"
for name in (WIDE, LONG, "képek.ünnep.naïve-café"):
    app.task(name, max_retries=0)(gated)
