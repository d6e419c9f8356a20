"""The search of the Chinese site: two neighbouring characters are a word, as there are no spaces.

Sphinx's own search of Chinese needs jieba, 19 MB and without a release since 2020, and Sphinx 9.0
writes a page for it that fails (`ChineseStemmer is not defined`).
"""

import re

from sphinx.search.en import SearchEnglish

WORD = r"\w+|(?=([\u4e00-\u9fff]{2}))"


class SearchPairs(SearchEnglish):
    lang = "zh"
    # Sphinx calls a function of this name: it cuts the query, in the browser, as `split` the pages.
    js_splitter_code = f"""
function splitQuery(query) {{
  return Array.from(query.matchAll(/{WORD}/g), (word) => word[1] ?? word[0]);
}}
"""

    def split(self, input: str) -> list[str]:
        return [word[1] or word[0] for word in re.finditer(WORD, input, re.ASCII)]
