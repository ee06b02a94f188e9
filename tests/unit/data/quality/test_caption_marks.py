import time

import pyarrow as pa
import pytest

from tuwen.data.quality.caption_marks import MARK_DECISIONS, PATTERNS, find_marks

NOISE = [
    "游客在湖边散步（图片来源：视觉中国）",
    "一只橘猫 图片来源于网络",
    "图片均来自网络，侵权必删",
    "来源：新京报",
    "运动员冲过终点线 图源网络",
    "资料图：列车驶过长江大桥",
    "港口全景（资料图片）",
    "花海（网络图）",
    "新华社记者 王芳 摄",
    "社区义诊现场。通讯员李雷摄",
    "摄影：王芳",
    "市文旅局供图",
    "春运首日 高清图集",
    "点击查看更多精彩图片",
    "点击图片放大",
    "羽绒服女 点击进入店铺",
    "点击下方链接购买",
    "查看原图",
    "清仓特价 下一页",
    "版权所有，未经授权不得转载",
    "如有侵权请联系删除",
    "转载请注明出处",
    "责任编辑：王芳",
    "©2023 某某图库",
    "更多内容请关注微信公众号",
    "关注公众号领红包",
    "公众号：家居好物",
    "扫码关注我们",
    "长按识别二维码",
    "咨询电话：13800000000",
    "不锈钢栏杆定做 咨询电话13800000000",
    "联系客服微信号: abc12345",
    "加微信领优惠",
    "详情见 HTTP://example.com/a",
    "网址：www.example.com",
    "保温杯500毫升 包邮",
    "【包邮】纯棉四件套",
    "全国包邮不锈钢锅",
    "红色连衣裙 厂家直销 7天无理由退换",
    "（图片来自网络）",
    "图片来源：新华网",
    "图源：微博",
    "新华社记者张三摄",
    "图为发布会现场。本报记者 王五 摄",
    "更多精彩请点击查看",
    "点击图片查看大图",
    "点击阅读原文",
    "转载请联系授权",
    "版权归原作者所有",
    "侵删",
    "禁止转载",
    "关注微信公众号：旅行家",
    "扫码进群领福利",
    "微信：abc123456",
    "详情请咨询客服",
    "包邮！纯棉T恤",
    "顺丰包邮 大闸蟹",
    "七天无理由退换 连衣裙",
    "正品保证 假一赔十",
    "www.taobao.com",
    "请关注我们的公众号",
    "东方IC供图",
    "资料图片",
    "责编：李四",
    "欢迎选购",
    "先到先得 限时秒杀",
]
CONTENT = [
    "版权",
    "网址、链条、锁链、锁链",
    "公众号海报设计",
    "微信公众号封面首图模板",
    "公众号二维码立牌亚克力",
    "关注公众号图标贴纸",
    "点击器计数器手动",
    "老师点击鼠标播放图片",
    "手指点击屏幕的插画",
    "点击购买按钮图标",
    "点击率提升课程海报",
    "他关注着比赛的来源",
    "河流的来源示意图",
    "无线扫码枪超市收银",
    "扫码支付台牌",
    "扫码点餐的顾客",
    "二维码门禁机",
    "神经网络图",
    "网络图书馆的大厅",
    "16G101建筑图集",
    "宠物图集画册",
    "厂家提供图纸加工",
    "版权登记证书",
    "知识产权与版权保护讲座",
    "女孩翻到书的下一页",
    "下一页箭头按钮",
    "资料图书馆藏书架",
    "记者拿着摄像机采访",
    "摄影师在海边拍照",
    "客服人员戴着耳机",
    "客服机器人玩偶",
    "包邮标签贴纸",
    "快递包裹和邮筒",
    "书包邮票图案",
    "编辑在电脑前工作",
    "责任心强的警察",
    "微信表情包",
    "转载货物的卡车",
    "优惠券模板设计",
    "请关注红绿灯的路牌",
    "新华社记者采访运动员",
    "微信扫码登录界面",
    "微信加好友的手机截图",
    "添加微信好友的表情",
    "微信公众号运营书",
    "雨后的街道上停着一辆红色公交车",
    "网址导航页面设计",
    "",
    "公众号文章配图插画",
    "手机扫码支付的顾客",
    "扫码机",
    "点击屏幕的手指",
    "鼠标点击图标",
    "版权页样张",
    "版权符号",
    "包邮字样的促销海报",
    "打包邮寄的纸箱",
    "微信图标",
    "客服头像",
    "查看地图的游客",
    "放大镜下的图片",
    "进入地铁站的人群",
    "网址输入框",
    "人际网络图",
    "来源于自然的木纹",
    "茶叶来源地",
    "编辑部的办公室",
    "责任重于泰山标语",
    "供图书馆用的书架",
    "图集封面",
    "照片墙装饰",
    "关注儿童健康海报",
    "摄影展海报",
    "摄影棚灯光",
    "下一页按钮图标",
    "侵权责任法书籍",
    "优惠券",
    "扫一扫付款码立牌",
    "记者招待会",
]


def mark(*captions: str) -> dict[str, list[bool]]:
    return {name: found.tolist() for name, found in find_marks(pa.chunked_array([captions], pa.string())).items()}


@pytest.mark.parametrize("caption", NOISE)
def test_what_is_written_to_the_reader_is_boilerplate(caption: str) -> None:
    assert mark(caption)["boilerplate"] == [True]


@pytest.mark.parametrize("caption", CONTENT)
def test_what_describes_a_picture_is_no_boilerplate(caption: str) -> None:
    assert mark(caption)["boilerplate"] == [False]


@pytest.mark.parametrize(
    ("name", "found", "not_found"),
    [
        (
            "html",
            [
                "猫&amp;狗",
                "咖啡&nbsp;杯",
                "&#29482;肉",
                "&#x732B;",
                "红色<br>裙子",
                '<p class="t">裙子</p>',
                "<BR/>",
                "<b>猫</b>",
                '<a href="x">',
            ],
            ["Q&A问答", "R&D; 研发", "a<b>c", "x<i", "<人名>在<地名>", "价格<100元", "AT&T"],
        ),
        (
            "escapes",
            [r"\u732b趴在窗台", r"第一行\n第二行", r"\x e7\xe7\x8c", "%E7%8C%AB", r"结尾\n"],
            [r"C:\new\table", "打折50%起", "100%纯棉", "猫\n狗", "第一行/第二行"],
        ),
        (
            "url_only",
            ["https://item.example.com/1?id=2", " www.example.com ", "shop.example.cn/1.html", "example.com"],
            ["详情见 https://example.com", "京东.com的快递车", "3.5", "Node.js", "网址"],
        ),
        (
            "file_name_only",
            [
                "IMG_1234.jpg",
                "IMG_20230105_120000",
                "DSC01234.JPG",
                "微信图片_20230105",
                "a/b/photo 1.png",
                "1.webp",
            ],
            ["红色羽绒服", "P30手机", "猫.jpg", "image of 猫", "img", "DSC"],
        ),
        ("file_ending", ["猫.jpg", "红色羽绒服 1.PNG"], ["cat.jpg", "jpg格式的图片", "猫"]),
        (
            "placeholder",
            ["null", "NaN", " None ", "暂无描述", "无标题", "N/A"],
            ["无人机", "测试仪", "标题党", "nano"],
        ),
        (
            "number_only",
            ["123", "２０２３", "13.5%", "￥99", "2023-01-05", "①"],
            ["5号", "第3名", "500毫升", "!!", "猫"],
        ),
        ("symbols_only", ["...", "——", "？？？", "🔥🔥", "❤️"], ["猫。", "3!", "", " ", "🔥促销"]),
        (
            "zero_width",
            ["红色\u200b裙子", "\ufeff猫", "猫\u200d狗", "软\u00ad连字符", "a\u2060b"],
            ["👨\u200d👩\u200d👧一家", "❤\ufe0f", "红色 裙子", "红色\u3000裙子"],
        ),
        ("lost_characters", ["一只\ufffd猫", "\ufffd"], ["一只猫", "一只?猫"]),
        ("bidi_controls", ["\u202e倒写", "猫\u200e狗", "\u2066猫\u2069"], ["猫", "👨\u200d👩\u200d👧"]),
    ],
)
def test_a_mark_is_found_where_it_is_and_nowhere_else(name: str, found: list[str], not_found: list[str]) -> None:
    assert dict(zip(found, mark(*found)[name], strict=True)) == dict.fromkeys(found, True)
    assert dict(zip(not_found, mark(*not_found)[name], strict=True)) == dict.fromkeys(not_found, False)


def test_every_pattern_marks_a_column_as_long_as_the_captions() -> None:
    assert {name: len(found) for name, found in mark("猫", "狗").items()} == dict.fromkeys(
        ["boilerplate", *PATTERNS], 2
    )
    assert all(len(found) == 0 for found in mark().values())


def test_two_hundred_thousand_captions_take_seconds() -> None:
    captions = pa.chunked_array([[*NOISE, *CONTENT] * 2500])
    start = time.process_time()
    find_marks(captions)
    assert time.process_time() - start < 10


def test_every_mark_has_a_decision() -> None:
    assert MARK_DECISIONS.keys() == {"boilerplate", *PATTERNS}
