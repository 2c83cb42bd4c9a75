"""Labels files of every format: what is read, what is refused in one line, and that names survive."""

import csv
import gzip
import io
import json
import pickle

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayclf.data.label_files import EXTENSIONS, Label, label_space, read_labels
from rayclf.errors import DataError, LabelError, UserError
from rayclf.labels import LabelSpace, ProblemType

steady = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
# Names as they are after reading: no space around them, and no line break, which a table's name cannot hold.
names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff\ufffe\uffff"), min_size=1)
names = names.map(str.strip).filter(bool)
CAT = Label("cat", "http://x/1", ("feline", "kitty"), "A small animal")
DOG = Label("dog", "http://x/2")
PREFIXES = "@prefix skos: <http://www.w3.org/2004/02/skos/core#> . @prefix owl: <http://www.w3.org/2002/07/owl#> .\n"
SKOS = "http://www.w3.org/2004/02/skos/core#"


@pytest.fixture
def read(tmp_path):
    def of(name, content, **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_labels(path, **options)

    return of


@pytest.fixture
def refused(read, tmp_path):
    def of(name, content, kind=DataError):
        with pytest.raises(kind) as error:
            read(name, content)
        message = str(error.value)
        assert message.startswith(str(tmp_path / name))
        assert len(message.splitlines()) == 1
        return message.removeprefix(f"{tmp_path / name}: ")

    return of


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "cat\n\ndog\r\n", (Label("cat"), Label("dog"))),
        ("a.tsv", "\ufeffhttp://x/1\tcat\nhttp://x/2\tdog", (Label("cat", "http://x/1"), DOG)),
        ("a.tsv", "1\tcat\n2\tdog, tame;\tsmall\n", (Label("cat", "1"), Label("dog, tame;\tsmall", "2"))),
        ("a.csv", "a;b\nc\td\n", (Label("a;b"), Label("c\td"))),
        ("a.csv", '1,"cat, small"\n', (Label("cat, small", "1"),)),
        (
            "a.csv",
            "prefLabel,URI,altLabel,Definition,colour\n"
            'cat,http://x/1,feline| kitty ,A small animal,red\n"dog",http://x/2,,,\n',
            (CAT, DOG),
        ),
        ("a.csv", "uri;name\nhttp://x/2;dog\n", (DOG,)),
        ("a.tsv", "name\ndog\n", (Label("dog"),)),
        ("a.json", '["cat", 3]', (Label("cat"), Label("3"))),
        (
            "a.json",
            '{"cat": "A pet", "dog": {"uri": 7}, "cow": null}',
            (Label("cat", None, (), "A pet"), Label("dog", "7"), Label("cow")),
        ),
        ("a.json", '{"problem_type": "binary", "labels": [{"name": "spam"}]}', (Label("spam"),)),
        ("a.json", '{"labels": "a word", "x": "y"}', (Label("labels", None, (), "a word"), Label("x", None, (), "y"))),
        (
            "a.json",
            '[{"label": "cat", "id": "http://x/1", "alt": ["feline", "kitty", "cat", "kitty"], '
            '"definition": "A small animal"}, {"preferred": "dog", "uri": "http://x/2", "colour": {}}]',
            (CAT, DOG),
        ),
        ("a.yaml", "- no\n- 1.0\n- 2024-01-01\n- 'null'\n", tuple(map(Label, ("no", "1.0", "2024-01-01", "null")))),
        ("a.yml", "yes: It holds\nno:\n", (Label("yes", None, (), "It holds"), Label("no"))),
        (
            "a.yaml",
            "- name: cat\n  id: http://x/1\n  alternatives: [feline, kitty]\n  description: A small animal\n",
            (CAT,),
        ),
    ],
)  # fmt: skip
def test_what_is_read(read, name, content, expected):
    assert read(name, content) == expected
    assert read(f"{name}.gz", gzip.compress(content.encode())) == expected


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.doc", "", "unknown type of labels file; use one of .tsv, .csv"),
        ("a.tsv", "", "holds no labels"),
        ("a.tsv", "\n\n", "holds no labels"),
        ("a.csv", "id,name\n", "holds no labels"),
        ("a.json", "", "line 1: broken JSON"),
        ("a.json", "[]", "holds no labels"),
        ("a.yaml", "# nothing\n", "holds no labels"),
        ("a.ttl", "", "holds no labels"),
        ("a.tsv", "a\tb\tc\n", "line 1: 3 columns need a header with one of name, label, preflabel, preferred"),
        ("a.csv", "1,cat\n2,dog,big\n", "line 2: 3 columns where the first line has 2"),
        ("a.csv", "name,label\nx,y\n", "line 1: two columns hold the name"),
        ("a.tsv", '1\t"Guernica" (painting)\n', "line 1: broken row"),
        ("a.tsv", '1\t"open\n2\tb\n3\t"\n', "line 1: the name goes over several lines"),
        ("a.tsv", b"a\n\xff\n", "not UTF-8"),
        ("a.tsv.gz", b"plain", "not a whole gzip file"),
        ("a.json", '["a",\n]', "line 2: broken JSON"),
        ("a.json", '{"a": "1", "a": "2"}', "broken JSON ('a' stands twice)"),
        ("a.json", '["a", ["b"]]', "entry 2: name must be text"),
        ("a.json", "[true]", "entry 1: name must be text"),
        ("a.json", '["\\ud800"]', "entry 1: name is not valid Unicode"),
        ("a.json", '[{"name": "a", "alt": 3}]', "entry 1: alternatives must be a list"),
        ("a.json", '[{"name": "a", "label": "b"}]', "entry 1: two keys hold the name"),
        ("a.json", '{"a": {"name": "b"}}', "label 'a': has a second name"),
        ("a.json", '"cat"', "must be a list of labels"),
        ("a.json", "[" * 100_000, "broken JSON (nested too deeply)"),
        ("a.yaml", "a: b\nc: [\n", "line 3: broken YAML"),
        ("a.yaml", "a: 1\na: 2\n", "broken YAML ('a' stands twice)"),
        ("a.yaml", "? [a]\n: b\n", "a key is not text"),
        ("a.yaml", "- &a x\n- *a\n", "line 2: broken YAML (*a refers to another place"),
        ("a.yaml", "- a\n---\n- b\n", "must hold one YAML document, not 2"),
        ("a.yaml", "[" * 200_000, "broken YAML (nested too deeply)"),
        ("a.yaml", "- \0\n", "broken YAML"),
        ("a.ttl", f"{PREFIXES}<a> a skos:Concept ;\n skos:prefLabel 'x@en .\n", "line 3: broken Turtle (newline found"),
        ("a.ttl", b"\xff", "not UTF-8"),
        ("a.ttl", "<a> <b> " + "[" * 5000, "broken RDF (nested too deeply)"),
        ("a.nt", "<http://a> <http://b> <http://c> .\n<http://a> <http://b> .\n", "line 2: broken Turtle"),
        ("a.rdf", "<a>\n<b></a>", "line 2: broken XML (mismatched tag)"),
        ("a.xml", "<html/>", "holds no labels"),
    ],
)  # fmt: skip
def test_what_is_refused(refused, name, content, words):
    assert words in refused(name, content)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.tsv", "1\tcat\n2\t \n", "line 2: the name is empty"),
        ("a.tsv", "1\tcat\n2\tdog\n1\tcow\n", "line 3: the id '1' stands twice, first at line 1"),
        ("a.txt", "cat\ndog\n cat\n", "line 3: the name 'cat' stands twice"),
        ("a.json", '["a", null]', "entry 2: the name is empty"),
        ("a.json", '[{"id": "1"}]', "entry 1: the name is empty"),
        ("a.json", '["a", {"name": "a", "id": 1}]', "entry 2: the name 'a' stands twice"),
        ("a.yaml", "x" * 80 + "1: {id: 1}\n" + "x" * 80 + "2: {id: 1}\n", "the id '1' stands twice"),
        ("a.ttl", PREFIXES + "<http://x/1> a skos:Concept .", "concept <http://x/1>: has no skos:prefLabel"),
        ("a.ttl", PREFIXES + "<http://x/1> a skos:Concept ; skos:prefLabel ' ' .", "<http://x/1>: the name is empty"),
    ],
)
def test_labels_that_are_refused(refused, name, content, words):
    assert words in refused(name, content, LabelError)


def test_no_such_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_labels(tmp_path / "a.tsv")
    (tmp_path / "b.tsv").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_labels(tmp_path / "b.tsv")


def test_one_name_with_several_ids(read):
    found = read("a.tsv", "1\tbank\n2\tbank (3)\n3\tbank\n4\tbank\n")
    assert [label.name for label in found] == ["bank", "bank (3)", "bank (3) (3)", "bank (4)"]
    assert [label.id for label in found] == ["1", "2", "3", "4"]


# --- SKOS -------------------------------------------------------------------------------------------------------

TURTLE = f"""{PREFIXES}
<http://x/1> a skos:Concept ; skos:prefLabel "kissa"@fi, "cat"@en ; skos:altLabel "kitty"@en, "feline", "katti"@fi ;
  skos:definition "A small animal"@en, "Pieni eläin"@fi ; skos:scopeNote "For pets."@en ; skos:broader <http://x/9> .
<http://x/0> a skos:Concept ; skos:prefLabel "old"@en ; owl:deprecated true .
<http://x/2> a skos:Concept ; skos:prefLabel "dog"@en-GB, "hund"@sv ; skos:scopeNote "Barks."@en .
<http://x/3> a skos:Concept ; skos:prefLabel "zebra"@sv, "apa"@fi .
<http://x/scheme> a skos:ConceptScheme ; skos:prefLabel "Animals"@en .
"""
ANIMALS = (
    Label("cat", "http://x/1", ("kitty", "feline"), "A small animal"),
    Label("dog", "http://x/2", (), "Barks."),
    Label("apa", "http://x/3"),
)


def test_skos_formats(read):
    import rdflib

    assert read("a.ttl", TURTLE) == ANIMALS
    assert read("a.ttl", "\ufeff" + TURTLE) == ANIMALS
    assert read("a.ttl.gz", gzip.compress(TURTLE.encode())) == ANIMALS
    graph = rdflib.Graph().parse(data=TURTLE, format="turtle")
    for name, form in (("a.rdf", "xml"), ("a.xml", "pretty-xml"), ("a.nt", "nt")):
        assert sorted(read(name, graph.serialize(format=form)), key=lambda label: label.id) == list(ANIMALS)


def test_skos_in_another_language(read):
    assert [label.name for label in read("a.ttl", TURTLE, language="fi")] == ["kissa", "dog", "apa"]
    cat, dog, _ = read("a.ttl", TURTLE, language="SV")
    assert (dog.name, cat.alternatives, cat.description) == ("hund", ("feline", "kitty"), "A small animal")


def test_relative_addresses_do_not_tell_the_folder(read, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert read("a.ttl", PREFIXES + "<#a> a skos:Concept ; skos:prefLabel 'x' .") == (Label("x", "#a"),)
    assert read("a.rdf", rdf("", "a", "x")) == (Label("x", "a"),)


def rdf(entities, about, name):
    return (
        f'<?xml version="1.0"?><!DOCTYPE rdf:RDF [{entities}]><rdf:RDF xmlns:skos="{SKOS}" '
        f'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><skos:Concept rdf:about="{about}">'
        f"<skos:prefLabel>{name}</skos:prefLabel></skos:Concept></rdf:RDF>"
    )


def test_entities_of_namespaces(read):
    found = read("a.rdf", rdf('<!ENTITY x "http://x/"><!ENTITY cat "small &#38;amp; tame">', "&x;1", "a &cat; &lt;b"))
    assert found == (Label("a small & tame <b", "http://x/1"),)


@pytest.mark.parametrize("place", ["about", "name"])
def test_billion_laughs(refused, place):
    entities = '<!ENTITY a0 "lollollollol">'
    entities += "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 11))
    bomb = rdf(entities, **({"about": "x", "name": "y"} | {place: "&a10;"}))
    assert "amplification" in refused("a.rdf", bomb)


def test_nothing_is_fetched(read, tmp_path, monkeypatch, refused):
    def forbidden(*_, **__):
        raise AssertionError("opened a connection")

    monkeypatch.setattr("socket.socket.connect", forbidden)
    monkeypatch.setattr("socket.getaddrinfo", forbidden)
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for url in (secret.as_uri(), "http://127.0.0.1:9/x"):
        assert read("a.rdf", rdf(f'<!ENTITY e SYSTEM "{url}">', "http://x/1", "n&e;")) == (Label("n", "http://x/1"),)
        assert read("a.rdf", rdf(f'<!ENTITY % e SYSTEM "{url}"> %e;', "http://x/1", "n")) == (Label("n", "http://x/1"),)
    imports = "<http://127.0.0.1:9/o> a owl:Ontology ; owl:imports <http://127.0.0.1:9/x> .\n"
    assert read("a.ttl", TURTLE + imports) == ANIMALS


def test_odd_values_are_not_logged(read, caplog):
    odd = '<http://x/1> <http://x/age> "old"^^<http://www.w3.org/2001/XMLSchema#integer> .\n'
    with caplog.at_level("DEBUG"):
        assert read("a.ttl", TURTLE + odd) == ANIMALS
    assert not caplog.records


# --- laws -------------------------------------------------------------------------------------------------------


def table(rows, mark):
    out = io.StringIO()
    csv.writer(out, delimiter=mark, quoting=csv.QUOTE_ALL).writerows(rows)
    return out.getvalue()


def turtle(found):
    text = [
        f"<http://x/{i}> a skos:Concept ; skos:prefLabel {json.dumps(name, ensure_ascii=False)} ."
        for i, name in enumerate(found)
    ]
    return PREFIXES + "\n".join(text)


WRITERS = {
    "list.json": json.dumps,
    "objects.json": lambda found: json.dumps([{"name": name} for name in found]),
    "mapping.json": lambda found: json.dumps(dict.fromkeys(found, "text")),
    "list.yaml": lambda found: yaml.safe_dump(found, allow_unicode=True),
    "escaped.yml": yaml.safe_dump,
    "mapping.yaml": lambda found: yaml.safe_dump(dict.fromkeys(found, "text"), sort_keys=False),
    "header.csv": lambda found: table([["name"], *([name] for name in found)], ","),
    "semicolons.csv": lambda found: table([["id", "name"], *([i, name] for i, name in enumerate(found))], ";"),
    "header.tsv": lambda found: table([["name"], *([name] for name in found)], "\t"),
    "two.tsv": lambda found: table([[f"x{i}", name] for i, name in enumerate(found)], "\t"),
    "a.ttl": turtle,
    "a.nt": lambda found: serialized(found, "nt"),
    "a.rdf": lambda found: serialized(found, "xml"),
}


def serialized(found, form):
    import rdflib

    graph = rdflib.Graph()
    for i, name in enumerate(found):
        graph.add((rdflib.URIRef(f"http://x/{i}"), rdflib.RDF.type, rdflib.SKOS.Concept))
        graph.add((rdflib.URIRef(f"http://x/{i}"), rdflib.SKOS.prefLabel, rdflib.Literal(name)))
    return graph.serialize(format=form)


@pytest.mark.parametrize("name", WRITERS)
@settings(steady, max_examples=40)
@given(found=st.lists(names, min_size=1, max_size=6, unique=True))
def test_names_survive(read, name, found):
    if name == "two.tsv" and found[0].lower() in ("name", "label", "preflabel", "preferred"):
        return  # that is a header
    again = [label.name for label in read(name, WRITERS[name](found))]
    if name in ("a.nt", "a.rdf"):
        assert sorted(again) == sorted(found)  # rdflib writes in an order of its own
    else:
        assert again == found


@pytest.mark.parametrize("extension", EXTENSIONS)
@settings(steady, max_examples=60)
@given(data=st.data())
def test_damaged_files_raise_nothing_but_user_errors(read, extension, data):
    good = {
        ".json": WRITERS["objects.json"](["cat", "dög"]),
        ".yaml": "- name: cat\n  id: 1\n- &a dög\n- 'x'\n",
        ".yml": "cat: {alt: [a, b]}\ndög: |\n  text\n",
        ".ttl": TURTLE,
        ".nt": serialized(["cat", "dög"], "nt"),
        ".rdf": rdf('<!ENTITY x "http://x/">', "&x;1", "dög"),
        ".xml": serialized(["cat", "dög"], "xml"),
    }.get(extension, 'id\tname\talt\n1,\t"c,at"\ta|b\n2\tdög\t\n')
    content = bytearray(good.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        end = start + data.draw(st.integers(0, 8))
        content[start:end] = data.draw(st.binary(max_size=6) | st.sampled_from([b'"', b"<", b"\n", b"[", b"&", b"{"]))
    try:
        assert read(f"a{extension}", bytes(content))
    except UserError as error:
        assert len(str(error).splitlines()) == 1


# --- label spaces -----------------------------------------------------------------------------------------------


def test_label_space(read):
    space = label_space(read("a.ttl", TURTLE), ProblemType.MULTILABEL)
    assert space.names == ("cat", "dog", "apa")
    assert space.ids == {"cat": "http://x/1", "dog": "http://x/2", "apa": "http://x/3"}
    assert space.alternatives == {"cat": ("kitty", "feline")}
    assert space.descriptions == {"cat": "A small animal", "dog": "Barks."}
    assert LabelSpace.from_json(space.to_json()) == space == pickle.loads(pickle.dumps(space))
    assert read("labels.json", json.dumps(space.to_json())) == ANIMALS
    with pytest.raises(LabelError, match="at least two"):
        label_space([CAT], ProblemType.MULTICLASS)
