"""Left and right: whether the picture of a caption may be mirrored, and what the caption is then.

A caption that names a side is true of the mirrored picture only with its words swapped. That holds where the word
is a place (左边, 右手, 左二, "on the left"), not in a name, an idiom or an organ (左宗棠, 无出其右, 左心室). What
stands in a picture as text, a dial or a map is wrong in a mirror whatever the caption says. A word that is not
known as a place counts as a name: such a picture loses an augmentation, and no caption its truth.
"""

import functools
import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

Mirroring = Literal["free", "swap", "keep"]  # mirror; mirror and swap the words; never mirror
MIRRORINGS: tuple[Mirroring, ...] = ("free", "swap", "keep")
_S = "[左右]"
OPPOSITES = {"左": "右", "右": "左", "left": "right", "right": "left"}
CACHED_CAPTIONS = 1 << 17  # about 30 MB; the views of a caption are made one after the other
MAX_CHARS_READ = 1000  # a longer caption is not read: its image is not mirrored

# --- what is never mirrored -----------------------------------------------------------------------------------
_QUOTE = "[“\"「『‘'《【]"
_CARRIER = (
    "印有|印着|印了|刻有|刻着|绣有|绣着|标有|标着|标注|贴着|贴有|挂着|举着|打着|拉着|喷着|显示|涂着|题有|题着|画着"
)
_MARK = "logo|LOGO|Logo|商标|标语|口号|徽标|徽章|品牌|标题|落款"
# Text stands in the picture: a verb of writing, or one of bearing with a quote or 字 behind it.
_TEXT = (
    "写着|写有|写了|书写|上书|题写|题词|题字|字样|字迹|文字|汉字|字母|字幕|弹幕|拼音|(?:^|[^左右])手写|书法|毛笔字|"
    "字帖|字画|书名|店名|店招|门头|灯箱|锦旗|价签|吊牌|春联|对联|楹联|牌匾|匾额|碑文|碑刻|石碑|墓碑|铭文|甲骨文|"
    "篆刻|印章|横幅|条幅|招牌|广告牌|黑板报|板书|"
    rf"(?:{_CARRIER})[^，。；,;]{{0,30}}?(?:{_QUOTE}|字|标语|标志|号码|logo|LOGO|商标|二维码)|"
    rf"(?:{_MARK})[^，。；,;]{{0,4}}{_QUOTE}"
)
_PRINT = (
    "二维码|条形码|条码|身份证|护照|证书|奖状|发票|小票|车票|船票|机票|邮票|纸币|钞票|支票|名片|报纸|杂志封面|"
    "书影|封面|海报|传单|说明书|菜单|试卷|答题卡|日历|月历|挂历|台历|截图|截屏|聊天记录|课件|幻灯片|"
    "示意图|流程图|结构图|思维导图|柱状图|折线图|饼图|曲线图|电路图|图表|表格|麻将|扑克牌|(?:^|[^际])象棋"
)
_DIAL = (
    "钟表|时钟|大钟|钟楼上的钟|指向[^，。,]{1,4}点|挂钟|闹钟|座钟|石英钟|电子钟|钟面|表盘|仪表|刻度|指针|时针|分针|秒针|"
    "手表|腕表|怀表|机械表|电子表|显示[^，。,]{0,6}[0-9]|温度计|体温计|血压计|电子秤|指南针|罗盘|日晷|大本钟|五线谱|乐谱|简谱|琴谱|曲谱|歌谱|吉他谱|高音谱号|键盘|计算器"
)
_MAP = "地图|平面图|卫星图|导航图|路线图|线路图|行政区划|地球仪|云图|等高线|星座图|星图"
_SIGN = (
    "交通标[志识]|标[志识]牌|指示牌|指路牌|路牌|站牌|门牌|铭牌|胸牌|号码牌|号码布|告示牌|警[示告]牌|提示牌|公告栏|"
    "限速|限高|禁[止令][^，。,]{0,8}(?:标[志识]|牌)|车牌|牌照|号牌"
)
_SCAN = "X光|X线|x光|胸片|CT片|CT图|CT影像|CT扫描|核磁共振|MRI|B超|超声图|造影|心电图|核磁"
_ENGLISH = (
    r"clocks?|wrist ?watch(?:es)?|maps?|globe|keyboards?|sheet music|newspapers?|posters?|screenshots?|"
    r"logos?|calligraphy|banners?|billboards?|(?:road|street|traffic|stop|shop|neon) signs?|"
    r"(?:license|licence|number) plates?|qr codes?|barcodes?|calendars?|book covers?|x-rays?|counter-?clockwise|"
    r"clockwise|that (?:says|reads)|saying|inscription|the words?|written|handwriting|lettering"
)
_NEVER = "|".join((_TEXT, _PRINT, _DIAL, _MAP, _SIGN, _SCAN, "顺时针|逆时针"))
NEVER = re.compile(rf"{_NEVER}|(?<![A-Za-z])(?i:{_ENGLISH})(?![A-Za-z])")
# Any caption whose picture is not free matches it. It is RE2, for Arrow, which searches a million in a second.
CANDIDATE = rf"{_NEVER}|{_S}|(?i:left|right|{_ENGLISH})"
ANY_SIDE = re.compile(rf"{_S}|left|right", re.IGNORECASE)
ORGANS = re.compile(  # but 香肠, 猪肝, 电脑 and 脑袋 are none
    "心脏|心房|心室|肺(?!片)|(?<![猪牛羊鸡鸭鹅兔])[肾肝](?!尖)|脾|胰|胆囊|(?<![开养])胃(?!口)|"
    "(?<![香腊烤火肥热红脆灌血粉米大猪牛羊鸡鸭鹅])肠(?![粉旺])|(?<!电)(?<!豆腐)脑(?![袋门后勺海花])|"
    "阑尾|卵巢|输卵管|睾丸|前列腺|甲状腺|乳腺|胸腔|胸膜|腹股沟|动脉|静脉|"
    "神经|瓣膜|输尿管|股骨|胫骨|腓骨|锁骨|肱骨|桡骨|尺骨|肋骨|颌骨|结节|囊肿|积液|病灶|肿瘤"
)
QUOTED = re.compile('《[^《》]*》|“[^“”]*”|"[^"]*"|「[^「」]*」|『[^『』]*』')

# --- what names both sides, or neither ------------------------------------------------------------------------
BOTH = re.compile(
    f"左右(?!手(?:定则|法则|螺旋))|左中右|左手右手|左(一.)右\\1|[一忽时可]{_S}[一忽时可]{_S}|左[、和与及或/]右|"
    "左([顾思拥邻膀支冲躲摇推挡闪等看瞧拐说辅提扭晃摆蹦跳])\\2?右[盼想抱舍臂绌突闪晃摆挡杀躲等看瞧拐说弼挈扭蹦跳]+|"
    r"(?<![A-Za-z])(?i:(?:left|right)(?: and | or |/| & )(?:left|right))(?![A-Za-z])"
)

# --- what is a place ------------------------------------------------------------------------------------------
_AREA = "[上下前后後中内外斜]{0,2}[边邊侧側面方端部角缘首]|[上下前后後]|手[边邊侧]|[上下]?半[边邊身侧部幅场]?"
_BODY = (
    "(?:[前后後上下大小]?(?:手臂|手腕|手掌|手指|手背|手心|手|臂|胳膊|胳臂|腿|脚踝|脚掌|脚趾|脚|腳|足|肢|爪子|爪|掌|拳|蹄|"
    "鳍|翅膀|翅)|眼睛|眼角|眼眶|眼皮|眼|目|耳朵|耳垂|耳|脸颊|脸|臉|面颊|颊|腮|眉毛|眉|嘴角|鼻孔|鼻翼|额头|额|肩膀|肩头|肩|膝盖|膝|"
    "肘|腕|踝|胯|臀|腰间|腰|胸口|胸|腋|鬓|太阳穴|大?拇指|食指|中指|无名指|小指|犄角|象牙|角|螯|钳)"
)
_THING = (
    "(?:[前后後]?(?:车轮|轮胎|轮|车门|车窗|车灯|大灯|尾灯|门|門|窗户|窗|灯|座椅|座位|座|驾驶位|驾驶座|驾驶室|排|保险杠|翼子板)|车道|车厢|机翼|"
    "后视镜|转向灯|转灯|舷窗|舷|舵|发动机|引擎|图|圖|照片|照|页|栏|列|屏|墙|墙壁|壁|口袋|裤兜|兜|袖子|袖口|袖|裤腿|裤脚|"
    "下?衣?摆|衣襟|襟|衽|领|鞋子|鞋|靴|袜子|袜|手套|耳环|耳钉|耳坠|耳机|耳罩|耳塞|开门|边缘|边沿|边框|扶手|把手|扇门|扇窗|箭头|路口|街|拐角|转角|勾拳|直拳|摆拳|通道|旁|撇子|利手|贵妃)"
)
_TURN = "(?:倾斜|转弯|转向|转身|转|轉|拐弯|拐|移动|移|变道|侧卧|侧躺|侧身|看齐|看)"
_ORDER = "三分之一|[起数數]|第?[一二三四五六七八九十两0-9０-９]{1,2}"
_TOWARDS = "(?:朝向|指向|面向|转向|偏向|[面脸头背]朝|[向往朝靠偏指])"
_FROM_TO = f"[从從由自]{_S}[到至向往]{_S}"
PLACE = re.compile(
    rf"[最偏靠]?{_S}(?:(?:{_AREA})|(?:{_BODY}|{_THING})[边侧旁上下里内前后部]?|{_TURN}|{_ORDER})"
    rf"|{_TOWARDS}{_S}{_TURN}?|[图圖居]{_S}|{_S}[转拐移指斜]"
)
# 左 or 右 as a word by itself is a place between such neighbours: （左）, 左：, 前排左, 黑猫在左，
BEFORE_ALONE = re.compile(
    r"(?:^|[\s（(【\[：:,，、;；。/]|[图画面照片排中最居偏靠上下前后在位者从由自至到往向朝起])$"
)
AFTER_ALONE = re.compile(r"$|[\s）)】\]：:,，、;；。.!！/]|[为是至到往向起数侧者]|分别|依次")
# Places whatever the words are: 左黑右白, 河的左岸, 身体右倾, 右手 where the segmenter cuts 右|手牵着
CERTAIN = re.compile(
    r"(?:^|(?<=[\s（(，,：:图为、]))(?:左[^左右\W]{1,2}右|右[^左右\W]{1,2}左)[^左右\W]{1,2}(?=$|[\s）)，,。、的]|双色)"
    f"|{_S}[手脚腿臂眼肩](?=.[着了住])|{_S}[转拐](?=[进入到上出过])|{_FROM_TO}|(?<=[在居]){_S}(?=的)|(?<=[河江湖溪渠]的){_S}岸|(?<=[路道街]){_S}(?=的)"
    f"|{_S}路(?=传中|突破|下底|进攻|插上|带球|起球)"
    f"|(?:身[体子]?|头|[船车塔]身|船体)[微稍略]{{0,2}}{_S}[倾偏歪斜]"
)
NOT_PLACES = re.compile(
    f"左耳[进入听].?右耳[出冒]|左眼跳.{{1,2}}右眼跳|左图右史|{_S}手(?:定则|法则|螺旋|坐标|系)|{_S}边?(?:后卫|前卫|边锋|前锋|中锋|中场|内野|外野|边卫|翼卫)|{_S}脚舞"
)
NO_NAME = re.compile(f"{_S}[为是起数者在]")  # which the segmenter may take for one
NAME_TAGS = ("nr", "ns", "nt", "nz", "i")  # jieba's tags of persons, places, bodies, other names, idioms
_MAX_JOINED = 4  # segments of one phrase: 最, 左, 前, 轮

_PART = (
    "hand|side|arm|leg|foot|eye|ear|shoulder|knee|corner|edge|half|lane|wheel|door|page|panel|image|picture|photo|column|"
    "paw|turn|arrow|wrist|cheek|elbow|thigh|ankle|thumb|finger|shoe|sleeve|pocket|window|mirror|headlight|margin|glove|"
    "boot|sneaker|sock|heel|toe|hip|calf|forearm|eyebrow|hoof|horn|tusk|claw|fin|earring|earphone|earbud|seat|tyre|tire|"
    "taillight|bumper|pedal|speaker|third|quarter|section|"
    "front|rear|facing|pointing|wards?"
)
_NEAR = "upper|lower|top|bottom|middle|center|centre|front|rear|facing|face|stage|camera|screen|frame|to|from"
_MOVING = "(?:turn|point|head|lean|tilt|veer|swing|swerv|mov)(?:s|ed|ing|es)?"
_RIGHT_ONES = "track|path|foot|way|place|time|person|people|man|woman|thing|choice|direction|size|to"  # proper
ENGLISH_SIDE = re.compile(r"(?<![A-Za-z])(?:left|right)(?![A-Za-z])", re.IGNORECASE)
ENGLISH_PLACE = re.compile(
    rf"(?P<a>left|right)(?=[ -](?:{_PART})(?:s|ed)?(?![a-z])| to (?:left|right)\b"
    r"| of (?:the|a|an|his|her|him|it|them|frame)\b)"
    r"|\b(?:on|to|at|from|towards?|in) (?:the|its|his|her|their|my|your) (?:far |upper |lower |top |bottom )?"
    rf"(?P<b>left|right(?! (?:{_RIGHT_ONES})\b))\b"
    rf"|\b(?:on|to|at|from) (?:far|extreme) (?P<g>left|right)\b(?= *(?:$|[^\w\s-]))"
    rf"|\b(?:{_NEAR})[ -](?P<c>left|right)\b(?= *(?:$|[^\w\s]|and\b|corner|side|of\b|to\b))"
    rf"|\b(?:{_MOVING}|look(?:s|ed|ing)?(?! right at)) (?P<d>left|right)\b"
    r"(?! (?:into|through|now|away|here|there|after|before|behind)\b)"
    r"|(?:^|[(\[（【,;，；]\s*)(?P<e>left|right)(?=\s*(?:[)\]）】:：]|,|，|;))"
    r"|\b(?:first|second|third|fourth|\d(?:st|nd|rd|th)) (?:from )?(?P<f>left|right)\b",
    re.IGNORECASE | re.ASCII,
)


class _Reading(NamedTuple):
    """What a caption says about sides: the decision, and (start, end) of each word that is a place."""

    mirroring: Mirroring
    places: tuple[tuple[int, int], ...]


def judge_mirroring(caption: str) -> Mirroring:
    """Return whether the picture of `caption` may be mirrored, and whether its words are then swapped."""
    return _read(caption).mirroring if len(caption) <= MAX_CHARS_READ else "keep"


def choose_strictest(captions: Iterable[str]) -> Mirroring:
    """Return the decision for a picture with several captions: the strictest of theirs, "free" without any."""
    return max(map(judge_mirroring, captions), key=MIRRORINGS.index, default="free")


def swap_sides(caption: str) -> str:
    """Return the caption of the mirrored picture; one that must not be mirrored is returned as it is."""
    if judge_mirroring(caption) != "swap":
        return caption
    swapped = list(caption)
    for start, end in reversed(_read(caption).places):
        swapped[start:end] = _swap_word(caption[start:end])
    return "".join(swapped)


def has_side_word(caption: str) -> bool:
    """Return whether the caption names a side as a place, so that it is false of the mirrored picture."""
    return bool(list_sides(caption))


def list_sides(caption: str) -> frozenset[str]:
    """Return which of "left" and "right" the caption names as a place."""
    if len(caption) > MAX_CHARS_READ or not ANY_SIDE.search(caption):
        return frozenset()
    english = {"左": "left", "右": "right"}
    words = (caption[start:end].lower() for start, end in _read(caption).places)
    return frozenset(english.get(word, word) for word in words)


def _swap_word(word: str) -> str:
    other = OPPOSITES[word.lower()]
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other


@functools.lru_cache(CACHED_CAPTIONS)
def _read(caption: str) -> _Reading:
    never = NEVER.search(caption) is not None
    both = [match.span() for match in BOTH.finditer(caption)]
    chinese = [m.start() for m in re.finditer(_S, caption) if not _is_within(m.start(), both)]
    english = [m.span() for m in ENGLISH_SIDE.finditer(caption) if not _is_within(m.start(), both)]
    if not chinese and not english:
        return _Reading("keep" if never else "free", ())
    found = _find_english_places(caption) if english else set()
    places = [span for span in english if span in found]
    places += [(at, at + 1) for at in _find_chinese_places(caption, chinese)] if chinese else []
    quoted = [match.span() for match in QUOTED.finditer(caption)]
    places = sorted(span for span in places if not _is_within(span[0], quoted))
    known = len(places) == len(chinese) + len(english) and not ORGANS.search(caption)
    return _Reading("swap" if known and not never else "keep", tuple(places))


def _is_within(place: int, spans: Iterable[tuple[int, int]]) -> bool:
    return any(start <= place < end for start, end in spans)


def _find_english_places(caption: str) -> set[tuple[int, int]]:
    """Return the spans of left and right as places; "left to right" has two of them, so matches may overlap."""
    found, start = set[tuple[int, int]](), 0
    while match := ENGLISH_PLACE.search(caption, start):
        group = match.lastgroup or "a"
        found.add(match.span(group))
        start = match.end(group)
    return found


def _find_chinese_places(caption: str, sides: list[int]) -> Iterator[int]:
    """Yield those of `sides`, the places of 左 and 右, that stand in a phrase of place made of whole words."""
    words = _cut(caption, hmm=False)
    barred = [match.span() for match in NOT_PLACES.finditer(caption)]
    barred += [(start, end) for start, end, tag in _cut(caption, hmm=True) if tag.startswith(NAME_TAGS)]
    barred = [span for span in barred if not PLACE.fullmatch(caption, *span) and not NO_NAME.match(caption, *span)]
    certain = [one.span() for one in CERTAIN.finditer(caption) if not NOT_PLACES.match(caption, one.start())]
    for side in sides:
        number = next(n for n, (start, end, _) in enumerate(words) if start <= side < end)
        if _is_within(side, certain) or (not _is_within(side, barred) and _is_place(caption, words, number)):
            yield side


def _is_place(caption: str, words: list[tuple[int, int, str]], number: int) -> bool:
    """Return whether word `number`, which holds 左 or 右, is a place, alone or joined with its neighbours."""
    start, end, _ = words[number]
    for first in range(max(number - 2, 0), number + 1):
        for _, last, _ in words[number : first + _MAX_JOINED]:
            if PLACE.fullmatch(caption, words[first][0], last):
                return True
    return end - start == 1 and bool(BEFORE_ALONE.search(caption[:start]) and AFTER_ALONE.match(caption, end))


def _cut(caption: str, hmm: bool) -> list[tuple[int, int, str]]:
    """Return start, end and tag of the words of `caption`; hmm: names that the dictionary lacks are guessed."""
    import rjieba  # not needed to load a model or to step on tensors

    words, start = [], 0
    for word, tag in rjieba.tag(caption, hmm=hmm):
        words.append((start, start + len(word), tag))
        start += len(word)
    return words
