"""The configuration: YAML files, --set, defaults, and errors that name the field."""
# tests are told by their names

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rayclf.config import Config
from rayclf.config_file import load_config
from rayclf.errors import ConfigError
from rayclf.labels import ProblemType

# Told to be steady: the same examples each time, and no clock.
steady = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture
def load(tmp_path):
    def load(text, overrides=()):
        file = tmp_path / "job.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(file, overrides)

    return load


def refused(load, text, overrides=()):
    with pytest.raises(ConfigError) as error:
        load(text, overrides)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


def test_defaults_need_no_file(load):
    assert load_config() == Config() == load("") == load("# nothing\n") == load("train:\nmodel:\n  lora:\n")


def test_sections_and_overrides(load):
    text = "data: {text: body}\ntrain: {epochs: 2, learning_rate: 2e-5}\nlabels: {problem_type: multilabel}"
    config = load(text, ["train.epochs=7", "model.lora.r=4"])
    assert (config.data.text, config.train.epochs, config.model.lora.r) == ("body", 7, 4)
    assert config.train.learning_rate == 2e-5
    assert config.labels.problem_type is ProblemType.MULTILABEL
    assert load(text, {"train.epochs": 7, "model.lora.r": 4}) == config
    assert load("train:\n", ["train.epochs=2"]).train.epochs == 2  # an empty section can be filled


def test_overrides_leave_the_mapping_as_it_was():
    given_tree = {"epochs": 2}
    assert load_config(None, {"train": given_tree, "train.seed": 5}).train.seed == 5
    assert given_tree == {"epochs": 2}


@pytest.mark.parametrize(
    ("override", "section", "field", "value"),
    [
        ("train.learning_rate=2e-5", "train", "learning_rate", 2e-5),
        ("train.learning_rate=1E3", "train", "learning_rate", 1000.0),
        ("train.weight_decay=0", "train", "weight_decay", 0.0),
        ("output.overwrite=yes", "output", "overwrite", True),
        ("labels.problem_type=binary", "labels", "problem_type", ProblemType.BINARY),
        # Text is taken as it is typed, whatever it would mean in YAML.
        ("model.template={text}", "model", "template", "{text}"),
        ("model.template=Review: {text} # end", "model", "template", "Review: {text} # end"),
        ('model.template="{text} "', "model", "template", "{text} "),
        ("data.separator=|", "data", "separator", "|"),
        ("data.separator=#", "data", "separator", "#"),
        ("data.separator= ", "data", "separator", " "),
        ("data.label=1", "data", "label", "1"),
        ("data.label=yes", "data", "label", "yes"),
        ("data.label=item #1", "data", "label", "item #1"),
        ("data.label=a=b", "data", "label", "a=b"),
        ("data.label=null", "data", "label", None),
        ("model.revision=12e5", "model", "revision", "12e5"),
    ],
)
def test_set_values(override, section, field, value):
    found = getattr(getattr(load_config(None, [override]), section), field)
    assert found == value
    assert type(found) is type(value)


def test_numbers_in_words_stay_words(load):
    config = load("model: {revision: 12e5}\ntrain: {learning_rate: 2e-5, weight_decay: 1E-2}")
    assert (config.model.revision, config.train.learning_rate, config.train.weight_decay) == ("12e5", 2e-5, 0.01)


def test_target_modules_take_a_name_or_a_list():
    assert load_config(None, ["model.lora.target_modules=[q_proj, v_proj]"]).model.lora.target_modules == [
        "q_proj",
        "v_proj",
    ]
    assert load_config(None, ["model.lora.target_modules=all-linear"]).model.lora.target_modules == "all-linear"


@pytest.mark.parametrize(
    ("text", "path", "near"),
    [
        ("trian: {epochs: 2}", "trian", "train"),
        ("train: {epoch: 2}", "train.epoch", "epochs"),
        ("model: {lora: {droput: 0}}", "model.lora.droput", "dropout"),
    ],
)
def test_unknown_keys_suggest_the_nearest(load, text, path, near):
    message = refused(load, text)
    assert "job.yaml" in message
    assert f"unknown key '{path}'; did you mean '{near}'?" in message


def test_a_field_of_a_word_or_a_number_says_both(load):
    message = refused(load, "labels: {threshold: 1.5}")
    assert "labels.threshold: input should be 'tuned', or input should be less than 1 (it is 1.5)" in message


def test_unknown_key_without_a_near_one_lists_the_known(load):
    assert "unknown key 'train.zzzz'; known here: epochs, batch_size" in refused(load, "train: {zzzz: 1}")
    for name in ("zzzz", "rank"):  # "rank" is not a misspelt "dora"
        assert "known here: r, alpha" in refused(load, "", [f"model.lora.{name}=1"])
    assert "keys should be strings" in refused(load, "train: {1: 2}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("resources: {workers: [3, 1]}", "resources.workers: the fewest should come first (it is [3, 1])"),
        ("train: {epochs: 0}", "train.epochs: input should be greater than or equal to 1 (it is 0)"),
        ("train: {epochs: 2.5}", "train.epochs"),
        ("train: {epochs: many}", "train.epochs"),
        ("train: {epochs: yes}", "train.epochs: input should not be true or false"),
        ("train: {learning_rate: on}", "train.learning_rate: input should not be true or false"),
        ("train: {learning_rate: .nan}", "train.learning_rate: input should be a finite number"),
        ("train: {learning_rate: .inf}", "train.learning_rate: input should be a finite number"),
        ("train: {learning_rate: -1}", "train.learning_rate"),
        ("train: {precision: fp16}", "train.precision"),
        ("data: {test: 1}", "data.test"),
        ("data: {separator: ''}", "data.separator"),
        ("labels: {problem_type: regression}", "labels.problem_type"),
        ("labels: {threshold: 1}", "labels.threshold"),
        ("train: 3", "train"),
        ("model: {template: no place for it}", "model.template: must contain {text} exactly once"),
        ("model: {template: '{text}{text}'}", "model.template"),
        ("model: {lora: {target_modules: [1]}}", "model.lora.target_modules: "),
    ],
)
def test_wrong_values_name_the_field(load, text, words):
    assert words in refused(load, text)


def test_long_wrong_values_are_cut(load):
    assert len(refused(load, f"train: {{epochs: {'x' * 5000}}}")) < 400


def test_errors_of_overrides_do_not_blame_the_file(load):
    assert refused(load, "train: {epochs: 2}", ["train.epochs=0"]).startswith("train.epochs:")


@pytest.mark.parametrize("override", ["train.epochs", "=3", " =3", "epochs", ""])
def test_set_needs_a_path_and_a_value(load, override):
    assert "--set" in refused(load, "", [override])


def test_set_below_a_value(load):
    assert "'epochs' is not a section" in refused(load, "train: {epochs: 2}", ["train.epochs.x=1"])


@pytest.mark.parametrize(
    "text",
    [
        "train: [",
        "train: {epochs: 1",
        "\tx: 1",
        b"train: \xff",
        "a: 1\0",
        "train: {seed: 0x_}",
        "data: {label: 2024-13-45}",
        "!!python/object/apply:os.getcwd []",
        "[" * 400,
        "[a]: 1",
        "train: {epochs: 1, epochs: 2}",
        "train: {epochs: 1}\ntrain: {seed: 1}",
    ],
)
def test_broken_yaml(load, text):
    message = refused(load, text)
    assert "job.yaml: not valid YAML" in message


def test_yaml_that_is_no_mapping(load, tmp_path):
    assert "must hold sections" in refused(load, "- a\n- b")
    assert "must hold sections" in refused(load, "false")
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_config_is_frozen():
    with pytest.raises(ValidationError):
        Config().train.epochs = 2


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@steady
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "data.text": st.none() | text,
            "data.separator": text,
            "data.test": st.floats(0, 1, exclude_max=True),
            "labels.problem_type": st.sampled_from(["binary", "multiclass", "multilabel", None]),
            "model.lora.target_modules": text | st.lists(text),
            "train.learning_rate": st.none() | st.floats(0, exclude_min=True, allow_infinity=False),
            "train.epochs": st.integers(1, 10**9),
            "resources.workers": st.none() | st.integers(1, 100),
            "output.overwrite": st.booleans(),
        },
    )
)
def test_round_trip_through_yaml(tmp_path_factory, overrides):
    config = load_config(None, overrides)
    file = tmp_path_factory.getbasetemp() / "dump.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    assert load_config(file) == config


@steady
@given(st.binary(max_size=60) | st.text(st.sampled_from("train:{}[]&*!|>'\"%@-?, \n\t#012e.~<"), max_size=40))
def test_any_bytes_give_a_config_or_a_config_error(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        load_config(file)
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1


def test_labels_that_are_numbers_have_weights_too(tmp_path):
    (tmp_path / "x.yaml").write_text("train: {class_weights: {0: 1.5, 1: 2}}\ndata: {rebalance: {0: 0.5, 1: 0.5}}\n")
    config = load_config(tmp_path / "x.yaml")
    assert config.train.class_weights == {"0": 1.5, "1": 2.0}
    assert config.data.rebalance == {"0": 0.5, "1": 0.5}
