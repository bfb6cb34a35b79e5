"""Which emoji the demo model learns, and what they are called: the names, each with one of 31 kinds."""

import json
import re

KINDS = {  # kind -> category and subcategories of emoji-datasource
    "happy face": ("Smileys & Emotion", "face-smiling face-affection face-tongue face-hand face-hat face-glasses"),
    "moody face": ("Smileys & Emotion", "face-neutral-skeptical face-sleepy face-unwell face-concerned face-negative"),
    "creature": ("Smileys & Emotion", "face-costume"),
    "cat": ("Smileys & Emotion", "cat-face monkey-face"),
    "heart": ("Smileys & Emotion", "heart emotion"),
    "mammal": ("Animals & Nature", "animal-mammal"),
    "bird": ("Animals & Nature", "animal-bird"),
    "reptile": ("Animals & Nature", "animal-amphibian animal-reptile"),
    "sea animal": ("Animals & Nature", "animal-marine"),
    "insect": ("Animals & Nature", "animal-bug"),
    "flower": ("Animals & Nature", "plant-flower"),
    "plant": ("Animals & Nature", "plant-other"),
    "fruit": ("Food & Drink", "food-fruit"),
    "vegetable": ("Food & Drink", "food-vegetable"),
    "meal": ("Food & Drink", "food-prepared food-asian"),
    "sweet": ("Food & Drink", "food-sweet"),
    "drink": ("Food & Drink", "drink dishware"),
    "landscape": ("Travel & Places", "place-map place-geographic"),
    "building": ("Travel & Places", "place-building place-religious place-other"),
    "land vehicle": ("Travel & Places", "transport-ground"),
    "boat": ("Travel & Places", "transport-water"),
    "aircraft": ("Travel & Places", "transport-air"),
    "weather": ("Travel & Places", "sky-&-weather time"),
    "party": ("Activities", "event award-medal"),
    "sport": ("Activities", "sport"),
    "game": ("Activities", "game arts-&-crafts"),
    "music": ("Objects", "sound music musical-instrument"),
    "clothing": ("Objects", "clothing"),
    "device": ("Objects", "phone computer light-&-video science"),
    "book": ("Objects", "book-paper writing mail money"),
    "tool": ("Objects", "tool household lock medical other-object hotel"),
}
LEFT_OUT = """
    100 anger hole speech_balloon eye-in-speech-bubble left_speech_bubble right_anger_bubble thought_balloon zzz
    hankey skull_and_crossbones face_with_symbols_on_mouth globe_with_meridians gun mahjong spades hearts diamonds
    clubs black_joker flower_playing_cards smoking coffin headstone funeral_urn placard identification_card syringe
    drop_of_blood bomb dagger_knife octagonal_sign construction busstop fuelpump seat station dotted_line_face
    face_with_diagonal_mouth mute sound loud_sound no_bell musical_note notes atm credit_card receipt chart bank
    hotel love_hotel convenience_store inbox_tray outbox_tray incoming_envelope e-mail envelope_with_arrow newspaper
    rolled_up_newspaper page_facing_up page_with_curl bookmark_tabs tanabata_tree admission_tickets ticket
    reminder_ribbon x-ray toilet roll_of_paper mouse_trap fax pager low_battery wheel hospital post_office
    european_post_office 8ball slot_machine sa restroom door elevator rosette white_flower currency_exchange yen
    dollar euro pound kaaba place_of_worship chess_pawn film_frames calling vibration_mode mobile_phone_off
    bar_chart cinema signal_strength performing_arts foggy
"""  # mostly text, symbols, signs, and what is no subject for a demo
LEFT_OUT_KIND = re.compile(r"^clock\d|^nonexist")
LEFT_OUT_MAPS = {"world_map", "japan"}


def slug(text):
    """A name as icon sets spell it: lower case, words joined by hyphens."""
    plain = re.sub("[\u2019'\u201c\u201d!]", "", text.lower()).replace("ñ", "n").replace("é", "e")
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def squashed(text):
    """A name without anything but letters and digits."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def names(datasource, unicode_names):
    """The emoji in the order of Unicode, as dicts of name, kind, spellings, and code points with and without selectors.

    datasource: text of emoji-datasource's emoji.json; unicode_names: of unicode-emoji-json's data-by-emoji.json.
    """
    kinds = {(group, part): kind for kind, (group, parts) in KINDS.items() for part in parts.split()}
    known = {key.replace("\ufe0f", ""): value for key, value in json.loads(unicode_names).items()}
    found = []
    for entry in sorted(json.loads(datasource), key=lambda entry: entry["sort_order"]):
        part = entry["subcategory"].replace(" ", "-")
        kind = kinds.get(("Objects" if part == "hotel" else entry["category"], part))
        if kind is None or _left_out(entry["short_name"], part):
            continue
        character = "".join(chr(int(code, 16)) for code in entry["unified"].split("-"))
        named = known.get(character.replace("\ufe0f", ""))
        spellings = [slug(text) for text in (named["name"] if named else "", entry["name"] or "", *entry["short_names"])]
        found.append({
            "name": named["name"] if named else entry["name"].lower(), "kind": kind,
            "spellings": [text for text in dict.fromkeys(spellings) if text], "code": entry["unified"].lower(),
            "plain code": (entry["non_qualified"] or entry["unified"]).lower(),
        })
    return found


def _left_out(name, part):
    return name in LEFT_OUT.split() or LEFT_OUT_KIND.match(name) or (part == "place-map" and name in LEFT_OUT_MAPS)
