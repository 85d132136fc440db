"""The nano model anywhere: its folder, unchanged, in what others load it with."""

import json

import pytest

from minqwen.nano.tokenizer import ADDED, save_tokenizer

OFFICIAL_SETTINGS = {  # the keys of the official tokenizer_config.json; the template has a file of its own
    "add_bos_token", "add_prefix_space", "added_tokens_decoder", "additional_special_tokens", "bos_token",
    "clean_up_tokenization_spaces", "eos_token", "errors", "extra_special_tokens", "model_max_length", "pad_token",
    "split_special_tokens", "tokenizer_class", "unk_token",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the tokenizer and the settings as training writes them."""
    folder = tmp_path_factory.mktemp("nano")
    save_tokenizer(folder)
    return folder


def test_settings_of_the_tokenizer_have_the_official_keys(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings.keys() == OFFICIAL_SETTINGS
    assert settings["tokenizer_class"] == "Qwen2Tokenizer"
    tokens = {token["id"]: token for token in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]}
    assert {int(id): token | {"id": int(id)} for id, token in settings["added_tokens_decoder"].items()} == tokens
    assert [token["content"] for token in tokens.values()] == [token.content for token in ADDED]
