"""The translations against the schemas: nothing missing, nothing stale, every number and every id kept."""

import json
import re
import shutil
from collections import Counter

import pytest
from pack import ROOT

LOCALES = ROOT / "locales"
TRANSLATIONS = ("zh", "ja", "ko", "de", "fr", "es")
LANGUAGES = ("en", *TRANSLATIONS)
HAN, KANA, HANGUL = "\u4e00-\u9fff", "\u3040-\u30ff", "\uac00-\ud7a3"
IN_EVERY_SENTENCE = {"zh": HAN, "ja": KANA, "ko": HANGUL}
IN_THE_FILE = {"de": "äöüß", "fr": "éèàê", "es": "áéíóúñ"}
NUMBER_WORDS = {"zero": "0", "one": "1", "once": "1", "two": "2", "second": "2"}
# Options of combos, which the page shows in English in every language.
OPTIONS = (
    "more noise", "pruned weights", "fade in", "fade out", "by seed", "nearest first", "farthest first",
)


def read(language):
    """One language's file."""
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


def page_texts(language):
    """What the scripts of one language's page say."""
    return json.loads((LOCALES / language / "main.json").read_text(encoding="utf-8"))


def from_schema(schema):
    """What the English file must say about a node. A name for an unnamed output would hide the name of its type."""
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {item.id: {"name": item.id, "tooltip": item.tooltip} for item in schema.inputs},
        "outputs": {str(index): output_texts(output) for index, output in enumerate(schema.outputs)},
    }


def output_texts(output):
    texts = {"name": output.display_name, "tooltip": output.tooltip}
    return {kind: text for kind, text in texts.items() if text}


def texts(tree, path=()):
    """Every text of a file by its path of keys, in the file's order."""
    if isinstance(tree, str):
        return {path: tree}
    return {key: text for name, part in tree.items() for key, text in texts(part, (*path, name)).items()}


def sentences(language):
    """The descriptions and tooltips of a file by path."""
    return {path: text for path, text in texts(read(language)).items() if path[-1] in ("description", "tooltip")}


def numbers(text):
    return Counter(re.findall(r"\d+(?:\.\d+)?", text))


@pytest.fixture(scope="module")
def expected(host):
    """The English texts that the schemas of all nodes of the pack hold."""
    from saddle_free_guidance.nodes.extension import SaddleFreeExtension

    classes = host.loop.run_until_complete(SaddleFreeExtension().get_node_list())
    names = [node.define_schema().node_id for node in classes]
    return {name: from_schema(host.node(name).define_schema()) for name in names}


@pytest.fixture
def installed(host):
    """The pack's translations in the host's folder for custom nodes."""
    import folder_paths

    pack = f"{folder_paths.get_folder_paths('custom_nodes')[0]}/{ROOT.name}"
    shutil.copytree(LOCALES, f"{pack}/locales")
    yield
    shutil.rmtree(pack)


def test_the_english_file_is_what_the_schemas_say(expected):
    assert len(expected) == 9
    assert read("en") == expected
    assert list(texts(read("en"))) == list(texts(expected))


def test_there_is_one_folder_for_each_language():
    for name in ("nodeDefs.json", "main.json"):
        assert sorted(path.parent.name for path in LOCALES.glob(f"*/{name}")) == sorted(LANGUAGES)
    assert len(list(LOCALES.glob("*/*"))) == 2 * len(LANGUAGES)


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_the_page_s_texts_have_every_sentence_figure_and_id(language):
    path = LOCALES / language / "main.json"
    english, translated = texts(page_texts("en")), texts(page_texts(language))
    assert path.read_bytes().decode() == json.dumps(page_texts(language), ensure_ascii=False, indent=2) + "\n"
    assert list(translated) == list(english)
    for where, text in english.items():
        said = translated[where]
        assert said and said == said.strip() and not re.search(r"[@|]", said), where
        for pattern in (r"\{\w+\}", "start_percent|end_percent|guidance_seed|CSV|JSON"):
            assert sorted(re.findall(pattern, said)) == sorted(re.findall(pattern, text)), (where, said)
        if where[1] == "advice":
            assert said != text, where
            if language in IN_EVERY_SENTENCE:
                assert re.search(f"[{IN_EVERY_SENTENCE[language]}]", said), where
    foreign = {"zh": KANA + HANGUL, "ja": HANGUL, "ko": HAN + KANA}.get(language, HAN + KANA + HANGUL)
    assert not re.search(f"[{foreign}]", "".join(translated.values()))


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_file_is_plain_readable_json(language):
    path = LOCALES / language / "nodeDefs.json"
    assert path.read_bytes().decode() == json.dumps(read(language), ensure_ascii=False, indent=2) + "\n"
    for where, text in texts(read(language)).items():
        assert text and text == text.strip() and "\ufffd" not in text, where
        assert not re.search(r"[{}@|]", text), f"{where}: the page reads braces, @ and | as message syntax"


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_a_translation_has_every_text_and_no_other(language, expected):
    assert list(texts(read(language))) == list(texts(expected))


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_every_sentence_is_translated(language):
    english, translated = sentences("en"), sentences(language)
    for where, text in english.items():
        assert translated[where] != text, where
        if language in IN_EVERY_SENTENCE:
            assert re.search(f"[{IN_EVERY_SENTENCE[language]}]", translated[where]), where
    letters = set("".join(texts(read(language)).values()).lower())
    assert set(IN_THE_FILE.get(language, "")) <= letters
    foreign = {"zh": KANA + HANGUL, "ja": HANGUL, "ko": HAN + KANA}.get(language, HAN + KANA + HANGUL)
    assert not re.search(f"[{foreign}]", "".join(letters))


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_every_number_is_kept_and_none_is_added(language):
    translated = sentences(language)
    for where, text in sentences("en").items():
        assert not re.search(r"\d,\d", translated[where]), f"{where}: the page shows decimal points"
        missing = numbers(text) - numbers(translated[where])
        spelled = {digit for word, digit in NUMBER_WORDS.items() if re.search(rf"\b{word}\b", text, re.IGNORECASE)}
        added = set(numbers(translated[where]) - numbers(text)) - spelled
        assert not missing and not added, (where, missing, added)


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_ids_and_options_are_kept_and_nodes_have_their_translated_names(language):
    nodes, translated = read(language), sentences(language)
    titles = {node["display_name"]: nodes[name]["display_name"] for name, node in read("en").items()}
    assert len(set(titles.values())) == len(titles)
    for where, text in sentences("en").items():
        ids = re.findall(r"`\w+`|\b[a-z]+_[a-z]+\b|\bscale(?= 0)|\bcfg\b", text)
        for name in [*ids, *(option for option in OPTIONS if option in text)]:
            assert name in translated[where], (where, name)
        for english, title in titles.items():
            assert english not in text or title in translated[where], (where, title)


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_the_same_english_has_the_same_translation(language):
    translated, seen = texts(read(language)), {}
    for where, text in texts(read("en")).items():
        assert seen.setdefault((where[-1], text), translated[where]) == translated[where], where


def test_the_host_serves_all_languages_with_all_nodes(installed, expected):
    from app.custom_node_manager import CustomNodeManager

    served = CustomNodeManager().build_translations()
    assert sorted(served) == sorted(LANGUAGES)
    assert served["en"]["nodeDefs"] == expected
    for language in LANGUAGES:
        assert served[language] == {"nodeDefs": read(language)} | page_texts(language)
        assert list(served[language]["nodeDefs"]) == list(expected)
