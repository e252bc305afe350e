"""The word-level tokenizer of the embedded models, in the files every Hugging Face loader reads."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from ps_train.embedded.problem_families import DIARY, vocabulary
from ps_train.embedded.word_problems import THINK_END, THINK_START

PAD, EOS, UNKNOWN, MASK = "<pad>", "<eos>", "<unk>", "<mask>"
# The prompt ends with <think>: the last prompt token is where reasoning starts, as in DeepSeek-R1's template.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ ' ' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}" + THINK_START + "{% endif %}"
)


def build_tokenizer(families: Sequence[str] = (DIARY,)) -> PreTrainedTokenizerFast:
    """One token a word (with the space before it), a marker, or a number; numbers have consecutive ids.

    `AutoTokenizer` turns any Qwen2 folder into `Qwen2Tokenizer`, whatever class its files name, and keeps
    only the vocabulary, the merges and the added tokens. So every word is an *added token* with its space in
    it: both classes then split and join text in the same way (tests/ps_train/test_tiny_tokenizer.py). Words
    outside the vocabulary are lost.

    Args:
        families: The problems whose words it knows.

    Raises:
        ValueError: If there is no such family.
    """
    markers = [PAD, EOS, UNKNOWN, THINK_START, THINK_END]
    tokens = [*markers, *(f" {word}" for word in vocabulary(families))]
    tokenizer = Tokenizer(BPE({token: i for i, token in enumerate(tokens)}, merges=[], unk_token=UNKNOWN))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=t in (PAD, EOS, UNKNOWN)) for t in tokens])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def build_diffusion_tokenizer() -> PreTrainedTokenizerFast:
    """The same with a mask token, whose id is the last: the reasoner's embeddings keep their rows."""
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"mask_token": MASK})
    return tokenizer
