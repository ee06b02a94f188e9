"""How probable is a text? By the kinds of its characters: frequent, common, rare, of another script, none."""

import functools
import re
import unicodedata
from typing import Any

import numpy as np

# The characters that make up most of any Chinese text, and of captions of goods and photographs.
FREQUENT = """
的一是不了人我在有他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好
都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把
法此实回二理美点月明其种声全工己话儿者向情部正名定女问力机给等几很业最间新什打便位因重被走电四第门相次东政海口使教
西再平真听世气信北少关并内加化由却代军产入先山五太水万市眼体别处总才场师书比住员九笑性通目华报立马命张活难神数件安
表原车白应路期叫死常提感金何更反合放做系计或司利受光王果亲界及今京务制解各任至清物台象记边共风战干接它许特觉望直服
毛林题建南度统色字请交爱让认算论百吃义科怎元社术结六功指思非流每青管夫连远资队跟带花快条院变联言权往展该领传近留红
治决周保达办运武半候七必城父强步完革深区即求品士转量空众技轻程告江语英基派满式李息写呢识极令黄收脸钱党倒持取设始版
双历史商千片容研像找友孩站广改议形委早房音火际则首单据导影失拿网香似斯专石若兵弟谁校读志飞观争究包组造落视济喜离坏
群犬猫狗鸟鱼羊牛鸡虎兔树叶草花蓝绿黑灰紫粉橙衣裤裙鞋袜帽套装男童款夏秋冬春季旅游照图坐站跑跳骑球桌椅沙床灯杯盘碗锅
饭菜茶酒糖果苹蕉桥街店铺楼屋窗墙雪雨云阳星夜晚晨岸湖河船舟伞镜表链戒耳环珠宝玉瓷木竹纸布棉丝绒皮革铁钢铜银塑料玻璃
家具厨卫浴洗护肤霜乳液精油婴妈奶粉玩具熊猫汽摩托自电脑手机键盘鼠标屏显示器相册礼盒袋箱包背肩斜挎韩潮流时尚休闲运动短
袖领衫恤牛仔外套羽绒毛呢连衣半身古风汉服旗袍婚纱简约北欧复古民族清仿真绿植蛋糕面条米肉虾蟹鸭烤炒煮汤辣甜酸火锅穿戴
站着坐着拿着抱着两个三四五六七八九十人群舞台歌唱戏剧画雕塑寺庙塔宫殿故园公路铁轨列机场港码头滩浪沙漠原森瀑布峡谷
個們來時說國對這會過還為學樣發後裡與從點長開動進經東車見問間電話無實現頭種當義機關門風馬書畫親愛樂聽讀寫識語話請
讓認論許設計記術業產華萬億兩雙條張隻貓鳥魚雞龍樹葉藍綠紅紫黃銀鐵銅錢買賣價處總統戰爭軍隊員廠場廳樓橋燈環節紙網
結給線級約練綜維織續衛運達遠邊選還鄉醫師帶幫幾廣應張強當彙後徑復憶懷戲撲據擁擊擇數斷於昇晝暫術殺氣決沒淚淨漢濟灣
灘爺狀獨獎獲瑪甲畢異療盡眾確禮種稱穩窮節簡糧紀純細終組絡絲經綠緊緣編縣總縮績繞羅習聞聲職肅腦臉與舉舊艦藝藥蘇蘭號
蟲補裝製複視覺觀觸訂訓訊訪設許評試詩詳誌調談論諸謝證譜警譯護變貝負財貨責貴費資賓賞質賴贈車軟軸輕載輛輪輸轉辦農連
遊鄰針釣錄鍋鍵鎮長門閃閉閒閱陣陰陸陽際隨險隱雜雖雲零電靈靜韓頁頂項順預領題額顏願類顯飛飯飲館駐驗體鬆鬥麗麥麼黨齊
臺灣檢復製鞋裡圖書館攝影夾飾膚淺衝純條長褲襯衫寬鬆寶寶兒兒童
"""
FREQUENT_HANGUL = """
이다는을에의가고하지로한은기사어도를인리있아자정시대일과나수해여그라전으면서보마거장부상스음동주구만들제안선오성들공원요
되것무진화문신소조연유경우당개치미내운물중발비위생적러르트세산할년국던모때건간야방행명학실니했었게습합와적양입
"""
# Nats a character: its class's share of a text, over how many there are of the class.
CLASSES = {
    "ascii": -4.0,
    "frequent": -7.2,
    "common": -9.3,  # of the first level of GB2312 or Big5
    "mark": -7.2,
    "unit": -8.5,  # what stands between the words of goods: degrees, diameters, numbers in circles, stars
    "latin": -7.0,
    "kana": -10.5,
    "symbol": -11.0,
    "letter": -11.5,  # of other scripts
    "hangul": -12.5,
    "frequent hangul": -12.5,
    "rare": -15.0,  # Chinese
    "bad": -25.0,  # private use, unassigned, control, U+FFFD, NUL
}
CLASS_NAMES = tuple(CLASSES)
OTHER_LANGUAGES = {  # what differs from Chinese text
    "cp932": {"kana": -5.2, "frequent": -8.5, "common": -9.0},
    "euc_jp": {"kana": -5.2, "frequent": -8.5, "common": -9.0},
    "cp949": {"hangul": -10.0, "frequent hangul": -5.2},
    "cp1252": {"frequent": -25.0, "common": -25.0},
}
UNITS = "±°℃Φφ∅Ωμ㎡㎝㎜㎏√≥≤～·￥①②③④⑤⑥⑦⑧⑨⑩ⅠⅡⅢⅣⅤ№★☆●○■□◆◇▲△▼→←↑↓※♥♪✓✔❤"
LONE_ACCENT = re.compile(r"(?<![A-Za-z\u00c0-\u024f])[\u00c0-\u024f](?![A-Za-z\u00c0-\u024f])")
LONE_ACCENT_COST = -6.0


@functools.cache
def _make_class_table() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return code point -> number of its class [0x110000]."""
    number = {name: n for n, name in enumerate(CLASS_NAMES)}
    table = np.full(0x110000, number["bad"], np.uint8)
    for code in range(0x10000):
        category = unicodedata.category(chr(code))
        if category[0] not in "C" or category == "Cf":
            table[code] = number["letter" if category[0] in "LMN" else "symbol"]
    ranges = {
        "ascii": [(9, 11), (13, 14), (32, 127)],
        "latin": [(0xC0, 0x180)],
        "kana": [(0x3040, 0x3100), (0xFF66, 0xFFA0)],
        "hangul": [(0xAC00, 0xD7A4), (0x1100, 0x1200), (0x3130, 0x3190)],
        "mark": [(0x3000, 0x3020), (0xFF01, 0xFF5F), (0x2018, 0x201F), (0x2014, 0x2015), (0x2026, 0x2027)],
        "rare": [  # Chinese, and what GBK looks like as UTF-8: Ͱ, ƿ
            (0x180, 0x1CD),
            (0x1DD, 0x250),
            (0x370, 0x384),
            (0x3D0, 0x400),
            (0x460, 0x590),
            (0x700, 0x800),
            (0x3400, 0x4DC0),
            (0x4E00, 0xA000),
            (0xF900, 0xFB00),
            (0x20000, 0x323B0),
        ],
        "symbol": [(0x1F000, 0x1FB00), (0xFE00, 0xFE10), (0xE0020, 0xE0080)],
    }
    for name, parts in ranges.items():
        for low, high in parts:
            table[low:high] = number[name]
    table[[ord(character) for character in FREQUENT_HANGUL if not character.isspace()]] = number["frequent hangul"]
    table[[0xA0, 0xB7, 0xD7]] = number["mark"]  # the hard blank, the dot in foreign names, the sign between sizes
    table[[ord(character) for character in UNITS]] = number["unit"]
    table[0xFFFD] = number["bad"]
    table[[ord(character) for character in _list_common()]] = number["common"]
    table[[ord(character) for character in FREQUENT if not character.isspace()]] = number["frequent"]
    return table


def _list_common() -> str:
    """Return the characters of the first levels of GB2312 and Big5, which were chosen by frequency."""
    trails = bytes(range(0xA1, 0xFF)), bytes([*range(0x40, 0x7F), *range(0xA1, 0xFF)])
    gb = b"".join(bytes((lead, trail)) for lead in range(0xB0, 0xD8) for trail in trails[0])
    big5 = b"".join(bytes((lead, trail)) for lead in range(0xA4, 0xC7) for trail in trails[1])
    both = gb.decode("gb2312", "ignore") + big5.decode("big5", "ignore")
    return "".join(character for character in both if character >= "\u4e00")  # Big5 has kana there


def classify_characters(text: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the number of the class of each character, its place in CLASS_NAMES."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return _make_class_table()[codes]


@functools.cache
def get_weights(language: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the nats of each class in a language, "chinese" or one of OTHER_LANGUAGES."""
    return np.array(list((CLASSES | OTHER_LANGUAGES.get(language, {})).values()))


def score_text(text: str, language: str = "chinese") -> tuple[float, float]:
    """Return how probable a text is: nats in all, and nats a character beyond ASCII (0 where there is none)."""
    counts = np.bincount(classify_characters(text), minlength=len(CLASS_NAMES))
    nats = counts * get_weights(language)
    alone = LONE_ACCENT_COST * len(LONE_ACCENT.findall(text))
    beyond = counts[1:].sum()
    return float(nats.sum() + alone), float((nats[1:].sum() + alone) / beyond) if beyond else 0.0
