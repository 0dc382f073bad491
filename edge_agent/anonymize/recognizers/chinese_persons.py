"""PERSON in Chinese: a surname with one or two characters, where a label, a title or a phrase says that a name stands."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.lexicon import read_words
from edge_agent.anonymize.span import Span
from edge_agent.flow import Entity

SURNAMES = "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林高罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔钟谭陆汪范金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤常温康施文牛樊葛邢安齐易乔伍庞颜倪庄聂章鲁岳翟殷詹申欧耿关兰焦俞左柳甘祝包宁尚符舒阮柯纪梅童凌毕单季裴霍涂成苗谷盛曲翁冉骆蓝路游辛靳欧管柴蒙鲍华喻祁蒲房滕屈饶解牟艾尤阳时穆农司卓古吉缪简车项连芦麦褚娄窦戚岑景党宫费卜冷晏席卫米柏宗瞿桂全佟应臧闵苟邬边卞姬师和仇栾隋商刁沙荣巫寇桑郎甄丛仲虞敖巩明佘池查麻苑迟邝官封谈匡鞠惠荆乐冀郁胥南班储原栗燕楚鄢劳谌奚皮粟冼蔺楼盘满闻位厉伊仝区郜海阚花权强帅屠豆朴盖练廉禹井祖漆巴丰支卿国狄平计索宣晋相初门云容敬来扈晁芮都普阙浦戈伏鹿薄邸雍辜羊阿乌母裘亓修邰赫杭况那宿鲜印逯隆茹诺战慕危玉银亢嵇公哈湛宾戎勾茅利於呼居揭干但尉冶斯元束檀衣昝奉衡尧"
COMPOUND = "欧阳|太史|端木|上官|司马|东方|独孤|南宫|万俟|闻人|夏侯|诸葛|尉迟|公羊|赫连|澹台|皇甫|宗政|濮阳|公冶|太叔|申屠|公孙|慕容|仲孙|钟离|长孙|宇文|司徒|鲜于|司空|令狐|呼延|完颜|耶律|拓跋|百里|东郭|西门|南门|轩辕|淳于|单于|第五|纳兰|司寇|子车"
_S = rf"(?:{COMPOUND}|[{SURNAMES}])"
_HAN = r"[\u4e00-\u9fff]"
_LABEL = (
    "[Pp]atient(?: [Nn]ame)?|PATIENT|[Nn]ame|NAME|患者姓名|病人姓名|姓名|患者|患儿|病人|病员|产妇|孕妇|新生儿|伤者|死者|受试者|参保人|被保险人|投保人|受益人|申请人|委托人|被鉴定人|联系人|紧急联系人|家属|家长|监护人|陪护人|陪护|护工|收件人|寄件人|发件人|收货人|经办人|随访人|记录人|记录者|报告人|汇报人|通知人|接听人|接收人|核对人|核对者|复核人|送检人|采样人|操作者|操作员|操作人|签名|签字|签署|医师签名|医生签名|家属签名|"
    "诊断医师|报告医师|报告医生|审核医师|审核医生|书写医师|书写医生|检查医师|检查医生|申请医师|申请医生|开单医生|开单医师|送检医师|送检医生|接诊医师|接诊医生|首诊医师|会诊医师|会诊医生|主治医师|主治医生|主管医师|主管医生|经治医生|经治医师|住院医师|管床医生|值班医生|值班医师|责任医师|手术医师|手术医生|麻醉医师|麻醉医生|主刀|主刀医师|术者|一助|二助|三助|助手|第一助手|第二助手|麻醉师|麻醉|器械护士|巡回护士|"
    "责任护士|值班护士|主管护士|护士长|护士|药师|助产士|助产师|审方药师|调配药师|检验者|检验师|检验员|审核者|审核人|审批人|技师|技术员|摄影技师|工程师|维修工程师|维修员|司机|驾驶员|驾驶人|项目负责人|研究者|主要研究者|主任|科主任|院长|医师|医生|大夫|经手人|负责人|客户|用户姓名|员工|职工|学生|老师|班主任|丈夫|妻子|儿子|女儿|父亲|母亲|配偶|爱人|哥哥|弟弟|姐姐|妹妹|孙子|孙女|外孙|外孙女|儿媳|女婿|侄子|侄女|舅舅|叔叔|姑姑|阿姨|邻居|朋友|同事|保姆|我是|我叫|名叫|叫做|叫|本人|抄送|经|由|请|致"
)
_TITLES = "老人家|老人|主任医师|副主任医师|主治医师|住院医师|副主任|主任|医生|医师|大夫|教授|院长|副院长|护士长|护士|护师|老师|先生|女士|小姐|同志|阿姨|大爷|大妈|大娘|大叔|大哥|大姐|叔叔|伯伯|爷爷|奶奶|婆婆|阿婆|阿公|老太太|老太|老先生|师傅|工程师|工|总|经理|科长|处长|博士|律师|警官|法官|主管|技师|药师|女婿"
_STOP_NEXT = r"(?=[^\u4e00-\u9fff]|$|男|女|于|在|因|的|神|系|自|经|已|曾|现|将|以|为|与|和|及|到|至|电|手|联|身|住|病|规|主|护|医|大|先|同|你|您|说|问|接|签|报|通|转|入|出|行|术|拟|诉|既|目|今|昨|近|是|有|无|未|可|需|请|对|向|从|被|给|让|把|陪|来|去|驾|乘|骑|回|写|发|送|收|负|审|复|提|表|告|照|看|护|签|抱|推|背|扶|反|称|完|进|开|代)"
_NAME = rf"{_S}{_HAN}{{1,2}}?"
_LABELLED = re.compile(
    rf"(?:{_LABEL})(?:\((?:签名|签字)\))?(?P<sep>[ ::]{{0,3}})(?P<name>{_S}[ ·]?{_HAN}{{1,2}})"
)
_TITLED = re.compile(rf"(?P<name>{_S}{_HAN}{{0,2}})(?={_TITLES})(?!工作|工程$)")
_SURNAME_AFTER = re.compile(
    rf"姓(?P<name>{_S})(?=[,。;、的 ]|$)|[小老阿](?P<nick>{_S})(?=[,。;、:说 ]|$|(?:在|来|你|您|请|已|去))"
)
_SPEAKER = re.compile(rf"(?:^|(?<=\n)|(?<=\] ))(?P<name>{_S}{_HAN}{{1,2}})(?=:)")
_CARET = re.compile(
    rf"[A-Za-z]{{1,20}}\^[A-Za-z]{{1,30}}(?:={_HAN}{{1,3}}\^?{_HAN}{{0,3}})?|{_HAN}{{1,2}}\^{_HAN}{{1,3}}"
)
_SPACED = re.compile(rf"(?<!{_HAN}){_S} {{1,2}}{_HAN}(?: {{0,2}}{_HAN})?(?!{_HAN})")
_FOREIGN = re.compile(rf"{_HAN}{{2,6}}·{_HAN}{{2,8}}(?:·{_HAN}{{2,8}})?")
_GREETED = re.compile(
    rf"(?:^|(?<=\n)|(?<=。))(?P<name>(?!你|您|大家|各位|老师|医生|请|好的|谢谢|同学|主任){_HAN}{{1,4}}?)(?:老师|医生|主任)?,?(?=你好|您好|在吗|好,)"
)
_FACTS = re.compile(
    rf"(?:^|(?<=[\n:,。;(]))(?P<name>{_S}{_HAN}{{1,2}})(?=[,( ]{{0,3}}(?:男|女|性别|身份证|病案号|住院号|门诊号|病历号|登记号|医保|\d{{1,3}} ?岁|电话|手机|微信|联系|出生|年龄|工号|因|于\d|患))"
)
_DEPARTMENT = re.compile(
    rf"(?<=\d床)(?P<bed>{_S}{_HAN}{{1,2}})(?=[,。:;( ]|$)|(?<=[科室部站院组])(?P<name>{_S}{_HAN}{{1,2}})(?=电话|通知|报告|医[师生]|护士|主任|签|接|收|审|告知|发现|会诊)"
)
_SIGN_OFF = re.compile(
    rf"(?:^|(?<=[\n。]))(?P<name>{_S}{_HAN}{{1,2}})(?=\n|$| +\d|,? ?(?:19|20)\d\d)", re.MULTILINE
)
_NOT_NAMES = read_words("chinese_not_names")
_HAN_HERE = re.compile(_HAN)


def find_chinese_persons(document: MatchText) -> Iterator[Span]:
    """Chinese names by label, title, speaker; pinyin in DICOM order; foreign names with a middle dot."""
    text = document.text
    if not any("\u4e00" <= c <= "\u9fff" for c in text):
        return
    position = 0
    while match := _LABELLED.search(text, position):
        start, end = match.span("name")
        position = start  # a label may follow a label: 由孙女张桂芳
        label = text[match.start() : start].rstrip(" :")
        yield from _cut(
            text, start, end, sure=bool(match["sep"].strip()), named=label.endswith("姓名")
        )
    for match in _TITLED.finditer(text):
        start, end = match.span("name")
        yield from _before_title(text, start, end)
    for pattern in (_GREETED, _FACTS, _DEPARTMENT, _SIGN_OFF):
        for match in pattern.finditer(text):
            group = "bed" if pattern is _DEPARTMENT and match["bed"] else "name"
            name = match[group]
            if name[:2] not in _NOT_NAMES or name[:2] in COMPOUND.split("|"):
                yield Span(match.start(group), match.end(group), Entity.PERSON)
    for match in _SURNAME_AFTER.finditer(text):
        group = "name" if match["name"] else "nick"
        yield Span(match.start(group), match.end(group), Entity.PERSON)
    for match in _SPEAKER.finditer(text):
        if match["name"] not in _NOT_NAMES and match["name"][:2] not in _NOT_NAMES:
            yield Span(match.start("name"), match.end("name"), Entity.PERSON)
    for pattern in (_CARET, _FOREIGN):
        for match in pattern.finditer(text):
            yield Span(match.start(), match.end(), Entity.PERSON)
    for match in _SPACED.finditer(text):
        before = text[max(0, match.start() - 6) : match.start()]
        if re.search(rf"(?:{_LABEL}) ?[::]? ?$", before):
            yield Span(match.start(), match.end(), Entity.PERSON)


def _cut(text: str, start: int, end: int, *, sure: bool, named: bool) -> Iterator[Span]:
    """A name of two, three or four characters: as long as what follows allows."""
    value = text[start:end]
    compound = value[:2] in COMPOUND.split("|")
    least = start + (3 if compound else 2)
    whole = sure and end - start == 3 and not _HAN_HERE.match(text, end)  # 审核医师：周一诺
    if value[:2] in _NOT_NAMES and not compound and not whole and not (sure and named):
        return
    longest = min(end, start + (4 if compound else 3) + value.count(" ") + value.count("·"))
    boundary = re.compile(_STOP_NEXT)
    if sure:
        if longest - start > 2 and text[longest - 1] in "男女于在因，,系的" and not compound:
            longest -= 1
        yield Span(start, longest, Entity.PERSON)
        return
    if boundary.match(text, longest):
        if longest > least and text[longest - 1] in "男女于在因系的":
            longest -= 1
        yield Span(start, longest, Entity.PERSON)
    elif boundary.match(text, least):
        yield Span(start, least, Entity.PERSON)


def _before_title(text: str, start: int, end: int) -> Iterator[Span]:
    """The longest of surname alone or full name that a border on the left allows."""
    value = text[start:end]
    if len(value) > 1 and value[0] == "应" and value[1] in SURNAMES:  # 应王主任邀请
        start, value = start + 1, value[1:]
    if value in _NOT_NAMES or value[:2] in _NOT_NAMES:
        return
    before = text[start - 1 : start]
    if (
        len(value) == 1
        and before
        and "\u4e00" <= before <= "\u9fff"
        and before not in "请由给和与向找是为让经在问:,、告知床的叫应"
    ):
        return
    yield Span(start, end, Entity.PERSON)
