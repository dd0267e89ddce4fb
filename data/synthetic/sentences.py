"""English sentences to speak: without end, made from patterns, or lines of a file; some for validation."""

import random
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from engine.user_error import UserError


def _phrases(text: str) -> list[str]:
    return [phrase.strip() for phrase in text.replace("\n", "").split("|")]


SLOTS = {
    "PERSON": _phrases("""
        the teacher|my sister|our neighbour|the young doctor|a quiet child|the old sailor
        |her brother|your cousin|the baker|a clever student|the tall nurse|my uncle George
        |the farmer|that stranger|the judge|their daughter|Mister Hughes|the royal guard
        |a famous singer|the new driver|my youngest nephew|the kind librarian|our guide|the painter
        |Missus Taylor|the shy boy|a cheerful girl|the chef|his father|the other passenger
        |the goalkeeper|the village poet"""),
    "THING": _phrases("""
        letter|blue jacket|wooden box|telephone|bicycle|orange|silver watch|thick rope|map
        |kitchen chair|violin|yellow umbrella|heavy suitcase|mirror|garden gate|fishing boat
        |birthday present|pair of scissors|leather glove|candle|treasure chest|photograph|television
        |newspaper|bunch of keys|church bell|toy ship|cooking pot|loaf of bread|warm coat
        |measuring cup|old engine|glass bottle|green carpet|feather|hammer|soup bowl|bag of flour
        |jar of honey|drum"""),
    "DID": _phrases("""
        found|carried|painted|measured|forgot|borrowed|repaired|noticed|described|photographed
        |brought|dropped|hid|examined|chose|bought|washed|sold|touched|delivered|polished|pushed
        |threw away|wrapped|asked for|looked at|enjoyed"""),
    "DO": _phrases("""
        find|carry|paint|measure|forget|borrow|repair|notice|describe|photograph|bring|drop|hide
        |examine|choose|buy|wash|sell|touch|deliver|polish|push|throw away|wrap|ask for|look at
        |enjoy"""),
    "WENT": _phrases("""
        walked|hurried|drove|cycled|wandered|ran|travelled|marched|rushed back|returned|moved|swam"""),
    "PLACE": _phrases("""
        in the garden|behind the church|near the station|at the edge of the forest|on the bridge
        |under the table|beside the river|across the road|in the south of France|by the lighthouse
        |outside the museum|at the market|above the village|along the beach|in a narrow valley
        |on the third floor|at the theatre|between two houses|at the harbour|in front of the school
        |in the middle of the square|on a small island|around the corner"""),
    "TO": _phrases("""
        to the river|through the forest|towards the mountains|past the old mill|to the airport
        |into the cellar|along the shore|over the hill|around the lake|to the hospital|up the stairs
        |down the valley|to the edge of town|across the bridge|into the theatre|through the gate"""),
    "TIME": _phrases("""
        yesterday|last Thursday|early in the morning|at half past three|before breakfast
        |during the storm|every June|on Saturday evening|two weeks ago|after the concert
        |in the summer|at midnight|just now|for the first time|last winter|once a month
        |while it was raining|on the fifth of March|as usual|without any trouble|in a great hurry
        |again and again"""),
    "HOW": _phrases("""
        quietly|slowly|with great pleasure|very carefully|for no reason at all|as fast as possible
        |rather badly|with both hands|without a word|happily|all alone|in silence|with a loud cheer
        |much too often|as if by magic"""),
    "IT_WAS": _phrases("""
        beautiful|much too large|a little strange|very expensive|almost invisible|unusually heavy
        |as light as a feather|nearly finished|completely broken|smooth and cold|full of water
        |worth a fortune|older than anyone thought|rough|quite ordinary|bright yellow
        |covered in dust|surprisingly useful|hidden from view|exactly the right size|soft and thick"""),
    "WEATHER": _phrases("""
        the fog was thick|it had begun to snow|the sun was shining|a cold wind blew from the north
        |the sky turned grey|the moon was rising|thunder rolled over the hills
        |the air smelled of smoke|the rain would not stop|ice covered the lake"""),
    "BELIEVE": _phrases("""
        everyone knows|nobody believed|I am sure|they told us|we often heard|she wrote
        |he could not understand|it is said|the paper reported|you should remember|my mother thinks
        |the children hoped"""),
    "FOOD": _phrases("""
        fresh fish|tomato soup|roast chicken|apple pie|brown rice|cheese and onions|boiled eggs
        |chocolate cake|green beans|strawberry jam|hot porridge|garlic bread|vegetable stew
        |orange juice|mushroom sauce|ginger biscuits"""),
    "NUMBER": _phrases("""
        two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fifteen|twenty
        |thirty one|forty|sixty five|a hundred|several|too many"""),
    "THINGS": _phrases("""
        letters|sheep|boats|horses|bridges|apples|children|questions|windows|stories|engines|birds
        |maps|visitors|thousand stars|yards of cloth|bottles|pages|judges|beaches|houses|roses
        |watches|mice|languages|photographs|oranges"""),
}
"""What may stand for a word in capitals."""
PATTERNS = _phrases("""
    PERSON DID the THING PLACE.|PERSON WENT TO TIME.|TIME, PERSON WENT TO.|PERSON DID a THING TIME.
    |Did PERSON DO the THING PLACE?|Why would PERSON DO such a THING?
    |Where did PERSON DO the THING, and when?|The THING PLACE was IT_WAS.
    |I have never seen a THING that was so old.|BELIEVE that PERSON DID the THING.
    |WEATHER, so PERSON WENT TO.|PERSON ordered FOOD and FOOD.|There were NUMBER THINGS PLACE.
    |Please DO the THING HOW.|PERSON WENT TO HOW.|If WEATHER, PERSON would DO the THING.
    |Could you DO this THING for PERSON?|PERSON counted NUMBER THINGS and NUMBER THINGS.
    |The THING and the THING were IT_WAS.|What a THING that was!|Nobody had seen PERSON PLACE TIME.
    |PERSON sat PLACE and thought about the THING.|WEATHER when PERSON DID the THING.
    |PERSON sells FOOD PLACE.|Do not DO the THING before PERSON has gone home.
    |We waited PLACE until PERSON DID the THING.|It took PERSON NUMBER hours to DO the THING.
    |The THING is IT_WAS, but the THING is not.|PERSON and PERSON WENT TO.""")
_SLOT = re.compile("|".join(sorted(SLOTS, key=len, reverse=True)))


def sentences(seed: int = 0) -> Iterator[str]:
    """Yield different sentences of 4 to 20 words, in an order that ``seed`` alone decides."""
    rng, seen = random.Random(seed), set()
    patterns = list(PATTERNS)
    while True:
        rng.shuffle(patterns)
        for pattern in patterns:
            sentence = _filled(pattern, rng)
            if sentence not in seen:
                seen.add(sentence)
                yield sentence


def _filled(pattern: str, rng: random.Random) -> str:
    used: set[str] = set()
    sentence = _SLOT.sub(lambda slot: _unused(SLOTS[slot[0]], used, rng), pattern)
    sentence = re.sub(r"\b(a) (?=[aeiou])", r"\1n ", sentence)
    return sentence[0].upper() + sentence[1:]


def _unused(phrases: list[str], used: set[str], rng: random.Random) -> str:
    choice = rng.choice([phrase for phrase in phrases if phrase not in used])
    used.add(choice)
    return choice


BUILT_IN = 1_000
LETTERS = range(45, 121)
"""Of the built-in sentences: long enough for a melody, short enough to be spoken in one breath."""
MAX_LETTERS = 300
"""Of a file's lines: more would not fit into one call of the synthesiser."""
LINES_ADDRESS = 1_702
HELD_OUT = 0.05
"""Share of sentences that validation alone hears."""


def built_in_lines() -> list[str]:
    """Made-up sentences of everyday English, always the same."""
    return list(islice((text for text in sentences() if len(text) in LETTERS), BUILT_IN))


def read_lines(path: Path) -> list[str]:
    """The different lines of a text file, without empty ones."""
    if not path.is_file():
        raise UserError(f"there is no file of texts {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    lines = [" ".join(line.split()) for line in text.split("\n")]
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_LETTERS:
            raise UserError(
                f"{path}, line {number}: {len(line)} letters are more than the {MAX_LETTERS} spoken at once;"
                " break the line at the end of a phrase"
            )
    lines = list(dict.fromkeys(line for line in lines if line))
    if len(lines) < 2:
        raise UserError(f"{path} needs two different lines at least, one to train and one to validate with")
    return lines


def line_of_group(lines: list[str], group: int, seed: int) -> tuple[str, str]:
    """The sentence of a group and its split; all are spoken before one comes again."""
    lap, place = divmod(group, len(lines))
    order = np.random.default_rng([seed, LINES_ADDRESS, 1 + lap]).permutation(len(lines))
    index = int(order[place])
    n_held_out = max(1, round(HELD_OUT * len(lines)))
    held_out = np.random.default_rng([seed, LINES_ADDRESS, 0]).permutation(len(lines))[:n_held_out]
    return lines[index], "validation" if index in held_out else "train"
