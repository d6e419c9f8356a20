"""The search of the Chinese site: two neighbouring signs are a word, as there are no spaces.

Sphinx's own search of Chinese needs jieba, 19 MB and without a release since 2020.
"""

import re

from sphinx.search.zh import SearchChinese

WORD = r"\w+|(?=([\u4e00-\u9fff]{2}))"


class SearchPairs(SearchChinese):
    # Sphinx asks for a function of this name. It cuts the query in the browser as `split` the pages.
    js_splitter_code = f"""
function splitQuery(query) {{
  return Array.from(query.matchAll(/{WORD}/g), (word) => word[1] ?? word[0]);
}}
"""

    def split(self, input: str) -> list[str]:
        return [word[1] or word[0] for word in re.finditer(WORD, input, re.ASCII)]
