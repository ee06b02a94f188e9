"""Marks captions that say nothing of a picture, or carry what their reader was not meant to see.

All patterns are RE2 (https://github.com/google/re2/wiki/Syntax), for Arrow: a column at a time, case aside.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from tuwen.data.formats.tokens.spelling import BIDI_CONTROLS, ZERO_WIDTH

if TYPE_CHECKING:
    import pyarrow as pa

Marks = dict[str, np.ndarray[Any, np.dtype[np.bool_]]]

# Between these a phrase stands for itself; RE2 cannot look behind.
OPEN = r"(?:^|[\s,，.。!！?？;；:：、|/~【\[（(《<>»·-])"
CLOSE = r"(?:$|[\s,，.。!！?？;；、|/~】\])）》<>«·-]|[哦啦呢哟])"
NAME = r"[\p{Han}A-Za-z· ]{1,12}"
MEDIA = r"(?:图片|照片|图文|图|素材|资料|文章|稿件|信息|内容)"
# What may be drawn, printed or made: 公众号海报 and 扫码枪 are goods, not an advice to the reader.
DEPICTED = (
    r"(?:微信)?(?:公众号|小程序|二维码|扫码|包邮|版权|转载|关注|网址|客服|优惠券|[上下]一页)\p{Han}{0,4}?"
    r"(?:海报|设计|封面|首图|次图|头图|配图|模板|素材|图标|标志|标识|按钮|界面|页面|插画|漫画|贴纸|标签|[立台吊挂]牌|"
    r"牌子|样机|排版|证书|登记|合同|书|课程|讲座|运营|推广|后台|推文|截图|头像|名片|广告|展架|灯箱|印章|枪|器|机|率|"
    r"柜|盒|支付|点餐|乘车|开门|付款|登录|箭头)|点击\p{Han}{0,4}?(?:按钮|图标|箭头|手势|光标|插画|动画|界面|器|率)"
)
# What sites and shops write around a picture, for their reader.
BOILERPLATE = "|".join(
    (
        # where the picture is from, and who supplied it
        rf"{MEDIA}来源(?:于|自)?[:：]?|{OPEN}来源[:：]|{OPEN}图源(?:[:：]|网络|于)|{OPEN}图源$",
        rf"{MEDIA}均?(?:来自|取自|源自|源于|转自|摘自|选自)(?:于)?(?:网络|互联网|百度|微博|官网)",
        rf"{OPEN}资料图(?:片)?(?:{CLOSE}|[:：])|资料照片|{OPEN}网络(?:图片?|配图|供图){CLOSE}",
        r"视觉中国|东方IC|人民视觉|Getty ?Images|Shutterstock",
        rf"(?:新华社|中新社)(?:发{CLOSE}|记者{NAME}摄)|供图{CLOSE}|(?:高清|精彩|更多|查看)图集|{OPEN}图集(?:[:：]|{CLOSE})",
        rf"(?:记者|通讯员){NAME}摄{CLOSE}|{OPEN}(?:(?:摄影|摄)[:：]|(?:图文|文/图|图/文)[:：/／])",
        # what to click on
        r"点击(?:此处|这里|链接|蓝字|图片|标题|上方|下方|左下角|右下角|原图|大图){0,2}(?:可|即可|直接)?"
        r"(?:查看|进入|浏览|放大|下载|购买|领取|阅读|观看|预览|跳转|了解|咨询|收藏|关注|看大图)",
        rf"点击(?:图片|此处|这里|链接|蓝字|原图|大图){CLOSE}|查看(?:原图|大图|更多)|{OPEN}[上下]一页{CLOSE}",
        # whose it is
        r"版权(?:所有|归|声明|属于|信息[:：]|[:：©])|©\s*\d{4}|all rights reserved|翻版必究",
        r"侵删|侵权(?:必究|必删|请|联系|即删|立删|将|删)|(?:如有|若有|如|若|涉嫌)侵权|未经(?:授权|许可|允许|同意|本)",
        r"(?:禁止|谢绝|请勿|严禁|不得|欢迎|拒绝)转载|转载(?:请|需|须|自|于|必须|注明)|责任?编辑?[:：]|责任编辑",
        # whom to follow and how to reach them
        r"(?:关注|搜索|微信|官方|我们的|本店|更多|回复).{0,6}公众号|公众号[:：]|(?:长按|扫描|识别).{0,4}二维码",
        r"扫码(?:关注|加|进群|入群|领|购买|下载|添加|咨询|查看|观看|了解)|(?:欢迎|记得|快来|点个)关注",
        r"关注(?:我们|本店|店铺|官方|有礼|公众号|领)|加(?:微信|客服|QQ|VX|V信)(?:领|咨询|进群|拉群|[:：\s\d]|$)",
        r"(?:微信号?|QQ群?|VX|热线|联系电话|咨询电话)[:：]\s*[0-9A-Za-z_+-]{5,}|(?:咨询|联系)(?:在线)?客服",
        r"(?:热线|(?:联系|咨询|订购)电话)\s*\+?\d[\d -]{6,}",
        r"https?://|www\.[a-z0-9]|网址[:：]",
        # what a shop promises with any picture
        rf"{OPEN}(?:全国|全场|全店|顺丰|限时|满[\d.]+元?|\d+件)?包邮{CLOSE}|(?:全国|全场|全店|顺丰|满[\d.]+元?)包邮",
        r"厂家直销|正品(?:保证|保障)|假一赔|[七7]天无理由|先到先得|(?:欢迎|敬请)(?:选购|下单)|领券(?:下单|立减|购买)",
    )
)
ENTITIES = (
    "amp|lt|gt|quot|apos|nbsp|ensp|emsp|[lr][ds]quo|hellip|[mn]dash|middot|bull|copy|reg|trade|times|deg|yen"
)
HTML_TAGS = "br|div|em|font|h[1-6]|hr|img|li|ol|p|script|span|strong|style|table|td|tr|ul"
DOMAIN = r"[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:com|cn|net|org|top|shop|vip|cc|io)"
PICTURE_ENDING = r"\.(?:jpe?g|jfif|png|gif|webp|bmp|tiff?|heic|heif|avif|svg|psd|raw)"
CAMERA = (
    "IMG|DSC[FN]?|DSC_|PXL|MVIMG|PANO|DCIM|VID|WIN|P|wx_camera|mmexport|Screenshot|image|photo|pic|微信图片|QQ图片"
)
PLACEHOLDERS = (
    r"\(?null\)?|nan|none|nil|n/?a|undefined|untitled|no (?:caption|title|description)|\[?object object\]?|"
    r"暂无(?:描述|标题|图片|数据|说明)?|无(?:标题|描述|说明|题|数据|名称)|未命名|缺失"
)
PATTERNS = {
    "html": rf"&(?:#\d{{1,7}}|#x[0-9a-f]{{1,6}}|{ENTITIES});|</?(?:{HTML_TAGS})(?:\s[^<>]*)?/?>|</[abiu]>"
    r"|<a\s[^<>]*>",
    # letters after \n, \r and \t would be a Windows path
    "escapes": r"\\u[0-9a-f]{4}|\\x[0-9a-f]{2}|\\[nrt](?:[^a-z]|$)|(?:%[0-9a-f]{2}){3}",
    "url_only": rf"^\s*(?:https?://\S+|www\.\S+|{DOMAIN}(?:/\S*)?)\s*$",
    "file_name_only": rf"^\s*(?:[\x20-\x7e]*[/\\])?(?:[\x21-\x7e][\x20-\x7e]*{PICTURE_ENDING}"
    rf"|(?:{CAMERA})[ _-]?\(?\d[\d_ ()-]*(?:{PICTURE_ENDING})?)\s*$",
    "file_ending": rf"\p{{Han}}.*{PICTURE_ENDING}\s*$",
    "placeholder": rf"^\s*(?:{PLACEHOLDERS})\s*$",
    "number_only": r"^\s*[\p{N}\p{P}\p{Sc}+\s]*\p{N}[\p{N}\p{P}\p{Sc}+\s]*$",
    "symbols_only": r"^\s*[^\p{L}\p{N}\s][^\p{L}\p{N}]*$",
    # a joiner holds families of emoji together, beside a letter it is dirt
    "zero_width": rf"[{ZERO_WIDTH}]|[\p{{L}}\p{{N}}]\x{{200d}}|\x{{200d}}[\p{{L}}\p{{N}}]",
    "bidi_controls": f"[{BIDI_CONTROLS}]",
    "lost_characters": r"\x{fffd}",
}
# Mark -> severity, advice, whether the row leaves its set, the severity on a notable share of the rows.
# What says nothing of its picture leaves; what says little stays, since 9:00 may well be a clock.
MARK_DECISIONS: dict[str, tuple[Any, ...]] = (
    dict.fromkeys(("url_only", "file_name_only", "placeholder"), ("warning", "", True))
    | dict.fromkeys(("boilerplate", "html", "escapes", "lost_characters"), ("warning",))
    | dict.fromkeys(("number_only", "symbols_only", "file_ending"), ("info", "", False, "warning"))
    | dict.fromkeys(("zero_width", "bidi_controls"), ("info",))
)


def find_marks(captions: "pa.ChunkedArray") -> Marks:
    """Return `boilerplate` and each of PATTERNS -> whether each caption [N] has it; no caption may be null."""
    import pyarrow.compute as pc

    addressed = pc.replace_substring_regex(captions, f"(?i){DEPICTED}", "〇")
    marks = {"boilerplate": pc.match_substring_regex(addressed, BOILERPLATE, ignore_case=True)}
    for name, pattern in PATTERNS.items():
        marks[name] = pc.match_substring_regex(captions, pattern, ignore_case=True)
    return {name: np.asarray(mark.to_numpy(), bool) for name, mark in marks.items()}
