"""Tokenizers of translation models with many languages: the codes they know, and the token that says which language a text is in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hunmin.errors import InputError, say, warn_once
from hunmin.text.decoding import Decoding

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

# Languages in the order of their ids: Fan et al. 2021 (M2M-100), Liu et al. 2020 (mBART), Tang et al. 2021 (mBART-50), NLLB Team 2022.
M2M100 = tuple(
    """
    af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha he hi hr ht hu hy id ig ilo is it ja
    jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne nl no ns oc or pa pl ps pt ro ru sd si sk sl so sq sr ss su sv sw ta th
    tl tn tr uk ur uz vi wo xh yi yo zh zu
""".split()
)
WMT21 = ("en", "ha", "is", "ja", "cs", "ru", "zh", "de")
MBART = tuple(
    """
    ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP nl_XX ro_RO ru_RU si_LK
    tr_TR vi_VN zh_CN
""".split()
)
MBART50 = (
    *MBART,
    *"""
    af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE sw_KE ta_IN te_IN th_TH tl_XX
    uk_UA ur_PK xh_ZA gl_ES sl_SI
""".split(),
)
NLLB = tuple(
    """
    ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn amh_Ethi apc_Arab arb_Arab ars_Arab ary_Arab arz_Arab
    asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn bak_Cyrl bam_Latn ban_Latn bel_Cyrl bem_Latn ben_Beng bho_Deva bjn_Arab
    bjn_Latn bod_Tibt bos_Latn bug_Latn bul_Cyrl cat_Latn ceb_Latn ces_Latn cjk_Latn ckb_Arab crh_Latn cym_Latn dan_Latn deu_Latn
    dik_Latn dyu_Latn dzo_Tibt ell_Grek eng_Latn epo_Latn est_Latn eus_Latn ewe_Latn fao_Latn pes_Arab fij_Latn fin_Latn fon_Latn
    fra_Latn fur_Latn fuv_Latn gla_Latn gle_Latn glg_Latn grn_Latn guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hne_Deva hrv_Latn
    hun_Latn hye_Armn ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn jpn_Jpan kab_Latn kac_Latn kam_Latn kan_Knda kas_Arab
    kas_Deva kat_Geor knc_Arab knc_Latn kaz_Cyrl kbp_Latn kea_Latn khm_Khmr kik_Latn kin_Latn kir_Cyrl kmb_Latn kon_Latn kor_Hang
    kmr_Latn lao_Laoo lvs_Latn lij_Latn lim_Latn lin_Latn lit_Latn lmo_Latn ltg_Latn ltz_Latn lua_Latn lug_Latn luo_Latn lus_Latn
    mag_Deva mai_Deva mal_Mlym mar_Deva min_Latn mkd_Cyrl plt_Latn mlt_Latn mni_Beng khk_Cyrl mos_Latn mri_Latn zsm_Latn mya_Mymr
    nld_Latn nno_Latn nob_Latn npi_Deva nso_Latn nus_Latn nya_Latn oci_Latn gaz_Latn ory_Orya pag_Latn pan_Guru pap_Latn pol_Latn
    por_Latn prs_Arab pbt_Arab quy_Latn ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Beng scn_Latn shn_Mymr sin_Sinh slk_Latn
    slv_Latn smo_Latn sna_Latn snd_Arab som_Latn sot_Latn spa_Latn als_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn swh_Latn
    szl_Latn tam_Taml tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi taq_Latn taq_Tfng tpi_Latn tsn_Latn tso_Latn tuk_Latn
    tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn urd_Arab uzn_Latn vec_Latn vie_Latn war_Latn wol_Latn xho_Latn
    ydd_Hebr yor_Latn yue_Hant zho_Hans zho_Hant zul_Latn
""".split()
)


@dataclass(frozen=True)
class Layout:
    """How a kind of tokenizer marks the language of a text.

    Args:
        codes: its languages, in the order of their ids.
        default: the language of texts where none is named.
        spelling: of a language's token.
        last: the token ends the text, after ``</s>``; otherwise it starts it.
    """

    codes: tuple[str, ...]
    default: str
    spelling: str = "{}"
    last: bool = False


LAYOUTS = {
    "M2M100Tokenizer": Layout(M2M100, "en", "__{}__"),
    "MBartTokenizer": Layout(MBART, "en_XX", last=True),
    "MBart50Tokenizer": Layout(MBART50, "en_XX"),
    "NllbTokenizer": Layout(NLLB, "eng_Latn"),
}


def layout(config: Mapping[str, Any]) -> Layout | None:
    """How a tokenizer with this ``tokenizer_config.json`` marks languages; None for one that does not."""
    found = LAYOUTS.get(str(config.get("tokenizer_class") or "").removesuffix("Fast"))
    if found and config.get("language_codes") == "wmt21":
        return replace(found, codes=WMT21)
    return replace(found, last=True) if found and config.get("legacy_behaviour") else found


class Languages(Decoding):
    """The part of :class:`~hunmin.text.tokenizer.Tokenizer` that knows languages; it does nothing for a tokenizer that marks none."""

    init_kwargs: dict[str, Any]

    @property
    def src_lang(self) -> str | None:
        """The language of texts, such as ``"en_XX"`` (mBART), ``"eng_Latn"`` (NLLB) or ``"en"`` (M2M-100). Set it to change it."""
        kind = layout(self.init_kwargs)
        return self.init_kwargs.get("src_lang") or (kind.default if kind else None)

    @src_lang.setter
    def src_lang(self, value: str) -> None:
        self.get_lang_id(value)
        self.init_kwargs["src_lang"] = value

    @property
    def tgt_lang(self) -> str | None:
        """The language of ``text_target``; None where none was named."""
        return self.init_kwargs.get("tgt_lang")

    @tgt_lang.setter
    def tgt_lang(self, value: str | None) -> None:
        if value is not None:
            self.get_lang_id(value)
        self.init_kwargs["tgt_lang"] = value

    @property
    def lang_code_to_id(self) -> dict[str, int]:
        """The id of every language's token: ``generate(..., forced_bos_token_id=tokenizer.lang_code_to_id["ko_KR"])``."""
        kind, known = layout(self.init_kwargs), self.backend_tokenizer.token_to_id
        pairs = [(code, known(kind.spelling.format(code))) for code in kind.codes] if kind else []
        return {code: index for code, index in pairs if index is not None}

    def get_lang_token(self, lang: str) -> str:
        """The token of a language: ``"__en__"`` for ``"en"`` of M2M-100, the code itself elsewhere.

        Raises:
            InputError: the tokenizer marks no languages, or not this one.
        """
        kind = layout(self.init_kwargs)
        token = (kind.spelling if kind else "{}").format(lang)
        if kind is None or self.backend_tokenizer.token_to_id(token) is None:
            some = ", ".join(list(self.lang_code_to_id)[:4])
            raise InputError(
                say(
                    f"This tokenizer has no language {lang!r}" + (f"; it has {some}, ..." if some else "."),
                    f"이 토크나이저에 {lang!r} 언어가 없습니다" + (f"({some} 등이 있습니다)." if some else "."),
                )
            )
        return token

    def get_lang_id(self, lang: str) -> int:
        """The id of a language's token.

        Raises:
            InputError: as :meth:`get_lang_token`.
        """
        return self.backend_tokenizer.token_to_id(self.get_lang_token(lang)) or 0

    def mark_language(self, backend: Backend, side: str) -> None:
        """Let ``backend`` put the token of the language of ``side`` ("source" or "target") and ``</s>`` around texts.

        Raises:
            InputError: the tokenizer has no such language.
        """
        from tokenizers import processors

        kind, eos = layout(self.init_kwargs), self.special.get("eos_token")
        if kind is None or eos is None:
            return
        named = self.init_kwargs.get("src_lang")
        if side == "target" and self.tgt_lang is None:
            warn_once(
                say(
                    f"tokenizer.tgt_lang is not set: text_target is marked as {self.src_lang}, the language of the source.",
                    f"tokenizer.tgt_lang을 정하지 않아 text_target을 원문의 언어({self.src_lang})로 표시합니다.",
                )
            )
        elif side == "target":
            named = self.tgt_lang
        if named is None and kind.default not in self.lang_code_to_id:
            return  # a vocabulary of its own, which no one asked to mark
        code = self.get_lang_token(named or kind.default)
        around = ("", f" {eos} {code}") if kind.last else (f"{code} ", f" {eos}")
        ids = [(token, backend.token_to_id(token)) for token in dict.fromkeys((code, eos))]
        backend.post_processor = processors.TemplateProcessing(
            single="$A".join(around), pair="$A $B".join(around), special_tokens=[(token, index or 0) for token, index in ids]
        )
