"""The tokenizer files of a repo, each read once for all rules."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mmfmt.fast_tokenizer import FastTokenizer, letters_of, open_fast
from mmfmt.lazy import settled
from mmfmt.repo import Repo
from mmfmt.tokenizer import Tekken, open_tekken, sentencepiece_pieces

FAST = "tokenizer.json"


@dataclass(frozen=True)
class Tokenizers:
    """mistral-common's tokenizer and that of transformers. A bad file raises MmfmtError."""

    repo: Repo

    @settled
    def tekken(self) -> Tekken | None:
        """The tekken.json; None where there is none, be there a SentencePiece file."""
        name = self.repo.tokenizer_name
        return open_tekken(self.repo, name) if name and name.endswith(".json") else None

    @settled
    def pieces(self) -> Mapping[str, int]:
        """The id of every piece of a SentencePiece file; none where that is not the tokenizer."""
        path = None if self.tekken else self.repo.tokenizer
        return sentencepiece_pieces(path) if path else {}

    @settled
    def fast(self) -> FastTokenizer | None:
        """The tokenizer.json; None where there is none."""
        return open_fast(self.repo, FAST) if self.repo.has(FAST) else None

    @property
    def both(self) -> tuple[Tekken, FastTokenizer] | None:
        """tekken.json and the BPE tokenizer.json that must equal it."""
        if self.tekken and self.fast and self.fast.is_bpe:
            return self.tekken, self.fast
        return None

    @settled
    def ranks(self) -> Mapping[str, int]:
        """Ranks of tekken.json's regular tokens, by what tokenizer.json calls them."""
        tokens = self.tekken.regular if self.tekken else ()
        return {letters_of(token): rank for rank, token in enumerate(tokens)}

    @property
    def name(self) -> str | None:
        """The file that says which ids are right: mistral-common's, else tokenizer.json."""
        return self.repo.tokenizer_name or (FAST if self.repo.has(FAST) else None)

    def ids(self, tokens: Iterable[str]) -> Mapping[str, int]:
        """The ids that the file of that name gives to special tokens, of those that it has."""
        if self.tekken:
            found = self.tekken.named
        else:
            found = self.pieces or (self.fast.ids if self.fast else {})
        return {token: found[token] for token in tokens if token in found}

    @property
    def size(self) -> int | None:
        """How many ids there are; None for SentencePiece files."""
        if self.tekken:
            return self.tekken.size
        return self.fast.size if self.fast and not self.repo.tokenizer else None
