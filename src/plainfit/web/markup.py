"""The tutorial's Markdown as HTML: paragraphs, lists, headings, code, and formulas as MathML."""

import re

from markupsafe import Markup, escape

INLINE = re.compile(r"`([^`]+)`|\$([^$]+)\$|\*\*(.+?)\*\*|\*([^*]+)\*", re.DOTALL)
MATH = re.compile(r"\\?[a-z]+|[\d.]+|\s+|.", re.IGNORECASE)
SIGNS = {"\\sum": "∑", "\\approx": "≈", "-": "\u2212"}
PARENTHESES = "()"


def html(text: str) -> Markup:
    return Markup("\n").join(block(part) for part in re.split(r"\n{2,}", text.strip()) if part)


def block(text: str) -> Markup:
    if heading := re.match(r"(#+) (.*)", text):
        level = len(heading[1])
        return Markup(f"<h{level}>{{}}</h{level}>").format(inline(heading[2]))
    if text.startswith("- "):
        items = (inline(item) for item in re.split(r"(?:^|\n)- ", text)[1:])
        return Markup("<ul>{}</ul>").format(
            Markup("").join(map(Markup("<li>{}</li>").format, items))
        )
    return Markup("<p>{}</p>").format(inline(text))


def inline(text: str) -> Markup:
    done, at = Markup(""), 0
    for found in INLINE.finditer(text):
        code, formula, strong, emphasis = found.groups()
        done += escape(text[at : found.start()])
        if code:
            done += Markup("<code>{}</code>").format(code)
        elif formula:
            done += Markup("<math>{}</math>").format(math(formula))
        elif strong:
            done += Markup("<strong>{}</strong>").format(inline(strong))
        else:
            done += Markup("<em>{}</em>").format(inline(emphasis))
        at = found.end()
    return done + escape(text[at:])


def math(formula: str) -> Markup:
    r"""Return a formula of LaTeX, of the few things that the tutorial's have, as MathML.

    >>> math("e^{x_i}")
    Markup('<msup><mi>e</mi><mrow><msub><mi>x</mi><mi>i</mi></msub></mrow></msup>')
    """
    tokens = [token for token in MATH.findall(formula) if not token.isspace()]

    def atom() -> Markup:
        token = tokens.pop(0)
        if token == "{":
            row = Markup("")
            while tokens[0] != "}":
                row += scripted()
            tokens.pop(0)
            return Markup("<mrow>{}</mrow>").format(row)
        if token[0].isdigit():
            return Markup("<mn>{}</mn>").format(token)
        if token.isalpha():
            return Markup("<mi>{}</mi>").format(token)
        if token in ("\\log", "\\exp"):
            return Markup("<mi>{}</mi><mspace width='0.17em'/>").format(token[1:])
        return Markup("<mo{}>{}</mo>").format(
            Markup(" stretchy='false'") if token in PARENTHESES else "", SIGNS.get(token, token)
        )

    def scripted() -> Markup:
        base = atom()
        for sign, name in (("_", "msub"), ("^", "msup")):
            if tokens and tokens[0] == sign:
                tokens.pop(0)
                base = Markup(f"<{name}>{{}}{{}}</{name}>").format(base, atom())
        return base

    done = Markup("")
    while tokens:
        done += scripted()
    return done
