"""Words that people write on folders of good parts. Adding a language is one entry."""

from __future__ import annotations

import unicodedata

GOOD: dict[str, str] = {
    "English": "ok okay good free clean normal none pass passed fine intact healthy accept accepted undamaged perfect "
    "nominal conforming conform no-anomaly no-anomalies anomaly-free no-defect no-defects defect-free non-defective "
    "not-defective no-fault fault-free faultless no-error no-damage no-crack good-part good-parts ok-part ok-parts",
    "German": "gut gutteil gutteile i.O. in-ordnung fehlerfrei einwandfrei sauber",
    "French": "bon bonne bons bonnes conforme sain sans-défaut",
    "Spanish": "bueno buena buenos buenas bien correcto sano sin-defecto",
    "Italian": "buono buona buoni senza-difetti",
    "Portuguese": "bom boa bons sem-defeito",
    "Dutch": "goed zonder-fout",
    "Swedish": "bra godkänd",
    "Polish": "dobry dobre dobra",
    "Czech": "dobrý dobré v-pořádku",
    "Turkish": "iyi sağlam",
    "Russian": "хорошо годен годные норма",
    "Chinese": "良品 合格 合格品 正常 良好",
    "Japanese": "良品 正常 良",
    "Korean": "정상 양품",
}


def means_good(label: str) -> bool:
    """Tell whether a label is a word for a good part; case, accents, blanks and punctuation do not matter."""
    return _plain(label) in {_plain(word) for words in GOOD.values() for word in words.split()}


def _plain(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if c.isalnum())
