"""4xx: lists of modules, ignored or targeted, as each reader of the file takes them."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property

from mmfmt.checkpoint import Module
from mmfmt.configs import CONFIG, PARAMS
from mmfmt.entries import CLASSES, MATCHERS, REGEX, by_name
from mmfmt.ignore import (
    IgnoreList,
    IgnoreReader,
    ignore_lists,
    ignore_reader,
    listed,
    mixed_groups,
    readers_of,
    unquantized_names,
)
from mmfmt.layout import Family, Row
from mmfmt.model import Model
from mmfmt.naming import Naming, hf_namings, naming, native
from mmfmt.quantization import CT, Quantization
from mmfmt.quantization.targets import Targets
from mmfmt.verify.findings import Edit, Problem, explained, rule, some
from mmfmt.verify.modules import quantized_modules
from mmfmt.verify.rules.quantization import quantization_config_differs_from_tensors
from mmfmt.verify.sections import compressed_section, place_in_section
from mmfmt.verify.subject import Subject

# ways of comparing in which an entry that is no expression is a whole name
_WHOLE_NAMES = ("name", "class", "exact")
# the reader whose names are valid for every reader of the file
_SPELLING = {CONFIG: "transformers", PARAMS: "vllm-native"}


@rule("MMF404")
def ignore_list_differs_from_tensors(subject: Subject) -> Iterator[Problem]:
    """Each reader's view of the ignore list leaves out just the modules that are not quantized.

    transformers compares entries with new-generation module names (model.vision_tower...),
    vLLM with its own (vision_tower..., language_model.model.layers...), `re:` entries only
    from their start. Names of another generation, native names (layers.0.attention.wq,
    vllm#24122), bare prefixes, names with a suffix too many and anchored regexes match nothing,
    without a warning (vllm#54547, #51910, llm-compressor#3159, #1546): the module is built
    quantized and its weights are not found. Only some of q, k, v (or gate, up) in the list stop
    vLLM (vllm#31623). Lists of other methods (modules_to_not_convert) are read as each method's
    loaders read them; Mistral's own FP8 has none.

    Repair: list new-generation names in config.json; in params.json what
    mmfmt convert hf-to-consolidated writes.
    """
    for model in subject.models:
        # nothing quantized at all is another rule's business
        if model.quantization and quantized_modules(model):
            for found in _lists(model, model.quantization):
                yield from _differences(model, model.quantization, found)


def _lists(model: Model, quantization: Quantization) -> list[IgnoreList]:
    family = model.checkpoint.naming.family
    found = ignore_lists(quantization.method, quantization.body, model.config_file, family)
    return list(found)


def _differences(model: Model, quantization: Quantization, found: IgnoreList) -> Iterator[Problem]:
    reader, targets = found.reader, Targets(quantization.schemes, found.reader.rewrite)
    asked = [m for m in model.checkpoint.linears if reader.asks(m)]
    unlike = [
        m
        for m in asked
        if found.ignores(m) == m.quantized and (m.quantized or targets.scheme(reader.name(m)))
    ]
    file, keys = place_in_section(model, found.key)
    for quantized, said, fix in (
        (False, "not ignored, though not quantized", "add"),
        (True, "ignored, though quantized", "remove what means"),
    ):
        names = [m for m in unlike if m.quantized == quantized]
        if names:
            message = f"for {reader.label}, {some([reader.name(m) for m in names])}: {said}"
            repair = f"{fix} {some([_spelling(model).name(m) for m in names])}"
            yield Problem(file, ".".join(keys), message, repair, _right_list(model, found))


def _spelling(model: Model) -> IgnoreReader:
    return ignore_reader(_SPELLING[model.config_file], model.checkpoint.naming.family)


def _right_list(model: Model, found: IgnoreList) -> tuple[Edit, ...]:
    """The list that every reader of the file understands, made anew from the tensors."""
    if not found.key or any(mixed_groups(model.checkpoint)):
        return ()
    reader = _spelling(model)
    names = unquantized_names(model.checkpoint, reader)
    return (Edit(*place_in_section(model, found.key), [*names, *reader.ignored]),)


@rule("MMF417")
def duplicate_target(subject: Subject) -> Iterator[Problem]:
    """No two config groups have the same target.

    The first group or the last one wins, with the reader: AutoRound once gave every group of a
    mixed-bit model the target Linear (auto-round#2174), and vLLM read all of its modules with
    one number of bits.

    Repair: list the modules of each group by name.
    """
    for model in subject.models:
        groups = compressed_section(model).get("config_groups") or {}
        holders: dict[str, list[str]] = {}
        for name, group in groups.items():
            for target in dict.fromkeys(group["targets"]):
                holders.setdefault(target, []).append(name)
        for target, names in holders.items():
            if len(names) > 1:
                place = f"{model.quantization_key}.config_groups.{names[-1]}.targets"
                message = f"{target!r} is a target of {' and '.join(names)}"
                yield Problem(model.config_file, place, message, "name each group's modules")


@rule("MMF418")
def target_unread(subject: Subject) -> Iterator[Problem]:
    """Every reader of the file finds the target of each quantized module.

    Targets are compared with the reader's own module names, as ignore lists are: `re:model...`
    and exact names of one generation match for one reader and not for another, which then
    builds the module unquantized.

    Repair: target Linear, or unanchored expressions (re:.*mlp.*).
    """
    for model in subject.models:
        if model.quantization and model.quantization.method == CT:
            for reader in readers_of(model.config_file, model.checkpoint.naming.family):
                yield from _unread(model, model.quantization, reader)


def _unread(model: Model, quantization: Quantization, reader: IgnoreReader) -> Iterator[Problem]:
    targets = Targets(quantization.schemes, reader.rewrite)
    if targets.all_alike:
        return
    asked = [m for m in quantized_modules(model) if reader.asks(m) and model.scheme(m)]
    unread = [reader.name(m) for m in asked if targets.scheme(reader.name(m)) != model.scheme(m)]
    if unread:
        place = f"{model.quantization_key}.config_groups"
        message = f"for {reader.label}, {some(unread)}: not the target of its group"
        yield Problem(model.config_file, place, message, "target Linear or re:.* expressions")


@rule("MMF419", level="warning")
def target_without_effect(subject: Subject) -> Iterator[Problem]:
    """Every target of a config group means a module of the model.

    One that means nothing is a misspelled name or one of another model: what it was meant for
    may be quantized by another group's scheme, or not at all.

    Repair: mend or remove the target.
    """
    if explained(subject, [quantization_config_differs_from_tensors]):
        return  # what the target was meant for
    for model in subject.models:
        if model.quantization and model.quantization.method == CT:
            yield from _idle_targets(model, model.quantization)


def _idle_targets(model: Model, quantization: Quantization) -> Iterator[Problem]:
    targets = [(s.group, target) for s in quantization.schemes for target in s.targets]
    named = [(group, target) for group, target in targets if not _is_class(target)]
    linears = model.checkpoint.linears if named else []
    known = _all_names(model.checkpoint.naming.family, linears)
    for group, target in named:
        if target not in known and not any(map(by_name([target]), known)):
            place = f"{model.quantization_key}.config_groups.{group}.targets"
            message = f"{target!r} means no module of the model"
            yield Problem(model.config_file, place, message, "mend or remove it")


@rule("MMF420", level="warning")
def ignore_entry_without_effect(subject: Subject) -> Iterator[Problem]:
    """Every entry of an ignore list means something, and stands there once.

    Bare prefixes (model.vision_tower) and class names mean nothing in compressed-tensors'
    lists, entries of another model nothing anywhere: somebody meant a module that is now
    quantized, or thinks that it is not (vllm#54547, llm-compressor#2641). Names of modules that
    are not quantized are let pass in whatever spelling, and so are the native names of a vision
    model in params.json.

    Repair: remove the entry, or write the name of what was meant.
    """
    for model in subject.models:
        if model.quantization:
            lists = _lists(model, model.quantization)
            for each in lists:  # before its entries, one by one, take for ever
                each.means("")
            found = list(_idle_entries(model, model.quantization, lists))
            # a list that is wrong as well is another rule's, which makes it anew
            if found and not any(any(_differences(model, model.quantization, e)) for e in lists):
                yield from found


def _idle_entries(
    model: Model, quantization: Quantization, lists: list[IgnoreList]
) -> Iterator[Problem]:
    key, entries = listed([each.key for each in lists], quantization.body)
    names = _Names(model, lists)
    living = [entry for entry in dict.fromkeys(entries or ()) if names.have(entry)]
    readers = " or ".join(each.reader.label for each in lists)
    file, keys = place_in_section(model, key)
    edits = (Edit(file, keys, living),)
    for entry, count in Counter(entries).items():
        if entry not in living:
            message = f"{entry!r} has no effect: it means no module for {readers}"
            yield Problem(file, ".".join(keys), message, "remove it", edits)
        elif count > 1:
            message = f"{entry!r} stands there {count} times"
            yield Problem(file, ".".join(keys), message, "remove the others", edits)


class _Names:
    """Names of a model's modules that an entry of its ignore list may mean."""

    def __init__(self, model: Model, lists: list[IgnoreList]) -> None:
        self._modules, self._family = (
            model.checkpoint.modules.values(),
            model.checkpoint.naming.family,
        )
        self._read = [(each, _read_names(each.reader, self._modules)) for each in lists]

    @cached_property
    def _known(self) -> set[str]:
        """Names of unquantized modules, and of those that may be missing, in whatever spelling."""
        bare = [module for module in self._modules if not module.quantized]
        namings = _namings(self._family)
        single = {names.module(row, ()) for names in namings for row in _single(names)}
        return single | _all_names(self._family, bare)

    def have(self, entry: str) -> bool:
        """Whether a reader takes the entry for a module, or it names an unquantized one."""
        return any(self._read_as(found, names, entry) for found, names in self._read)

    def _read_as(self, found: IgnoreList, names: set[str], entry: str) -> bool:
        if found.spelled(entry) in names:
            return True
        if found.mode in _WHOLE_NAMES and not entry.startswith(REGEX) and entry not in CLASSES:
            return entry in self._known
        means, known = replace(found, entries=(entry,)).means, MATCHERS[found.mode]([entry])
        return any(map(means, names)) or any(map(known, self._known))


def _read_names(reader: IgnoreReader, modules: Iterable[Module]) -> set[str]:
    return {reader.name(module) for module in modules if reader.naming.has(module.row)}


def _all_names(family: Family, modules: Iterable[Module]) -> set[str]:
    """Names under which somebody may mean the modules, whatever program knows them."""
    return {
        names.module(module.row, module.slots)
        for names in _namings(family)
        for module in modules
        if names.has(module.row)
    }


def _namings(family: Family) -> list[Naming]:
    vllm = naming(family, "vllm", family.vllm)
    return [native(family), vllm, naming(family, "hf", "text"), *hf_namings(family)]


def _single(names: Naming) -> list[Row]:
    """Rows without slots, such as an output head that is tied to the embeddings."""
    return [row for row in names.family.rows if names.has(row) and "{" not in row.native]


def _is_class(target: str) -> bool:
    """Whether a target is the name of a class, not of a module."""
    return target[:1].isupper() and target.isidentifier()
