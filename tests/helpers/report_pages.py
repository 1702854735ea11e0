"""The page of a report as a tree, so that tests ask for its structure and not for its markup."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input", "hr"}
UNREAD = {"style", "script", "title", "head"}
INLINE = {"a", "b", "span", "code"}
"""What continues the word before it, and so does the half width of a mean."""


@dataclass(eq=False)
class Element:
    """An element with its attributes and children; text is a child of type str."""

    tag: str
    attributes: dict = field(default_factory=dict)
    children: list = field(default_factory=list)

    def walk(self):
        """This element and all below it, in the order of the page."""
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def all(self, tag, cls=""):
        """All elements of a tag below this one, with a class where one is named."""
        return [
            e
            for e in self.walk()
            if e is not self
            and e.tag == tag
            and (not cls or cls in (e.attributes.get("class") or "").split())
        ]

    def by_id(self, name):
        """The only element of an id; None where there is none."""
        found = [e for e in self.walk() if e.attributes.get("id") == name]
        assert len(found) < 2, f"{name} stands {len(found)} times"
        return found[0] if found else None

    def text(self, *, unfolded=False):
        """All text below it; ``unfolded``: what is seen while every ``details`` is closed, that is
        their summaries alone.
        """
        said = []
        for child in self.children:
            if isinstance(child, str):
                said.append(child)
                continue
            if child.tag in UNREAD:
                continue
            if unfolded and child.tag == "details":
                inner = " ".join(
                    c.text() for c in child.children if getattr(c, "tag", "") == "summary"
                )
            else:
                inner = child.text(unfolded=unfolded)
            joined = child.tag in INLINE or child.attributes.get("class") == "width"
            said.append(inner if joined else f" {inner} ")
        return " ".join("".join(said).split())


class Tree(HTMLParser):
    """Builds the tree and demands that tags are balanced."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.root = Element("page")
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        made = Element(tag, dict(attrs))
        self.open[-1].children.append(made)
        if tag not in VOID:
            self.open.append(made)

    def handle_startendtag(self, tag, attrs):
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        last = self.open.pop()
        assert last.tag == tag, f"</{tag}> closes <{last.tag}>"

    def handle_data(self, data):
        self.open[-1].children.append(data)


def read_page(path):
    """The tree of an HTML file."""
    parser = Tree()
    parser.feed(path.read_text())
    parser.close()
    assert parser.open == [parser.root], [e.tag for e in parser.open]
    return parser.root


def rows_of(table):
    """The cells of every body row of a table as text."""
    (body,) = table.all("tbody")
    return [[c.text() for c in row.children if isinstance(c, Element)] for row in body.all("tr")]
