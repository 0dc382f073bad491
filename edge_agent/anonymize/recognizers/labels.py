"""Labels of forms, headers, logs and JSON keys in three languages, and what stands behind each.

A label is written folded, words separated by one space; it matches with a space, an underscore, a hyphen or nothing between
the words, so that ``patient name`` is also ``PatientName`` and ``patient_name``.
"""

from __future__ import annotations

import enum
import re

from edge_agent.anonymize.recognizers.trie import trie


class Kind(enum.Enum):
    """What stands behind a label."""

    NAME = "a person"
    STAFF = "a person, named without a separator too when capitalised"
    NUMBER = "a number with at least three digits, or five where no separator stands between"
    CODE = "a number or word: station, title, user name"
    PLATE = "a vehicle's plate"
    DATE = "a date"
    PHONE = "a telephone number"
    STREET = "an address, up to the end of the field"
    TOWN = "a town or quarter"
    POSTCODE = "a postcode"
    ORGANIZATION = "an organisation"
    HOST = "the bare name of a host"
    KEPT = "a value that is no identifier"


_TABLE: dict[Kind, str] = {
    Kind.NAME: """
        patient name|patients name|patient's name|name of patient|pt name|full name|first name|given name|middle name|last name|family name|surname|maiden name|birth name|preferred name|nickname|alias|other patient names|mother's name|mothers name|father's name|
        name|patient|pt|mother|father|guardian|next of kin|nok|emergency contact|contact person|contact|responsible party|guarantor|guarantor name|subscriber name|insured name|insured|policy holder|policyholder|beneficiary|claimant|employee|employee name|client|client name|resident name|family|given|
        signed|signed by|electronically signed by|electronically signed|e-signed by|signature|dictated by|dictated|transcribed by|transcriptionist|reported by|read by|interpreted by|interpreting physician|reviewed by|verified by|approved by|authorized by|authorised by|checked by|prepared by|entered by|author|
        witness|informant|interpreter|caller|spoke with|driver|passenger|recipient|sender|attention|attn|subject name|proband|donor|participant|volunteer|operator|operators name|operators' name|performed by|ordered by|requested by|referred by|seen by|cc|to|from|rn|md|pa|np|emt|crna|cnm|
        nome|nome do paciente|nome completo|nome social|nome da mae|nome do pai|mae|pai|filiacao|paciente|pcte|acompanhante|responsavel|beneficiario|beneficiaria|titular|segurado|segurada|cliente|assinado por|assinado eletronicamente por|assinatura|laudado por|laudo por|digitado por|realizado por|revisado por|liberado por|conferido por|solicitado por|encaminhado por|testemunha|contato|agendamento|ass|vitima|contato de emergencia|em caso de emergencia|parente|conjuge|remetente|destinatario|motorista|usuario responsavel|cuidador|cuidadora|de|para|a/c|att|
        patientname|otherpatientnames|display|username full|given names|patient full name|person name|nome paciente|nomepaciente
    """,
    Kind.STAFF: """
        referring physician|referring physician's name|referring physicians name|referring provider|referring doctor|referring md|referring|attending|attending physician|attending md|ordering physician|ordering provider|ordering md|ord prov|ord provider|ordering prov|ref prov|att prov|prov|performing physician|performing physician name|performing physician's name|requesting physician|requesting provider|physician of record|physicians of record|
        hospitalist|intensivist|neurologist|obstetrician|gynecologist|pediatrician|paediatrician|oncologist|urologist|gastroenterologist|dermatologist|psychiatrist|rheumatologist|nephrologist|pulmonologist|orthopedist|audiologist|dietician|paramedic|cytotechnologist|grossed by|cosigned by|co-signed by|proofread by|
        pediatra|obstetra|ginecologista|neonatologista|cardiologista|neurologista|ortopedista|urologista|oncologista|geriatra|psiquiatra|dermatologista|infectologista|hematologista|endocrinologista|gastroenterologista|nefrologista|pneumologista|intensivista|plantonista|hematologist|fonoaudiologa|fonoaudiologo|dentista|farmaceutica|farmaceutico|acs|agente de saude|gestante|puerpera|parturiente|colega|interconsulta|aberta por|aberto por|
        name of physicians reading study|physician|provider|radiologist|interpreting radiologist|reporting radiologist|consultant|consulting physician|surgeon|assistant|assistant surgeon|first assistant|anesthesiologist|anaesthetist|anesthetist|anesthesia|anaesthesia|pathologist|cardiologist|resident|fellow|intern|pcp|primary care|primary care physician|primary care provider|gp|
        technologist|technician|sonographer|radiographer|tech|nurse|charge nurse|midwife|therapist|physical therapist|pharmacist|social worker|case manager|dietitian|chaplain|engineer|field engineer|service engineer|accepting|accepting physician|scheduler|scrub|circulator|investigator|principal investigator|coordinator|supervisor|manager|
        medico solicitante|medico assistente|medico responsavel|medica responsavel|medico regulador|medica reguladora|medico|medica|solicitante|radiologista|cirurgiao|cirurgia|auxiliar|1o auxiliar|2o auxiliar|primeiro auxiliar|anestesista|patologista|residente|preceptor|tecnico|tecnica|tecnico responsavel|enfermeiro|enfermeira|enfermeiro responsavel|fisioterapeuta|psicologo|psicologa|nutricionista|assistente social|farmaceutico|engenheiro|operador|doador|
        referringphysicianname|performingphysicianname|operatorsname|requestingphysician
    """,
    Kind.NUMBER: """
        mrn|mr no|hosp|medical record number|medical record|medical record no|med rec|hospital number|hospital no|unit number|chart|chart number|chart no|patient id|patientid|patient number|patient no|pid|issuer|hn|uhid|nhs|nhs number|nhs no|health number|health card|ohip|phn|
        accession|accession number|accession no|acc|acc no|accn|accession#|encounter|encounter number|encounter no|encounter id|visit number|visit no|visit id|csn|fin|fin number|episode|admission number|account|account number|account no|acct|acct no|billing number|invoice|invoice number|receipt|bill no|
        member|member id|member number|member no|membership|subscriber id|subscriber|subscriber number|policy|policy number|policy no|group|group number|group no|group id|plan number|claim|claim number|claim no|authorization|authorisation|authorization number|auth|auth number|auth no|prior auth|prior authorization|prior authorisation|preauthorization|referral number|certificate|
        ssn|social security|social security number|social security no|soc sec|ss#|sin|tax id|tin|ein|medicare|medicare number|medicaid|medicaid id|mbi|hicn|passport|passport number|passport no|national id|id number|id no|id card|identity number|student id|employee id|employee number|employee no|staff id|staff no|badge|badge number|badge no|payroll|
        license|licence|license number|licence number|license no|licence no|lic|lic no|driver's license|drivers license|driving licence|dl|npi|npi number|dea|dea number|state license|gmc|gmc number|nmc|upin|registration|registration number|registration no|reg no|vin|vehicle id|
        serial|serial number|serial no|serial num|s/n|sn|ser no|device serial|device serial number|device id|device|equipment|equipment no|generator serial|asset|asset tag|asset number|asset no|inventory|inventory no|tag|udi|imei|imsi|iccid|mac|mac address|
        order|order number|order no|order id|placer order number|filler order number|requisition|req|req no|request id|specimen|specimen number|specimen id|sample|sample id|case|case number|case no|report|report number|report no|report id|study id|study number|study no|subject id|subject|subject number|participant id|protocol id|trial id|enrollment|randomization|
        tracking|tracking number|tracking no|shipment|ticket|ticket number|incident|incident number|case id|job|job id|task id|session id|session|transaction|transaction id|confirmation|confirmation number|reference|reference number|ref no|our ref|your ref|file number|file no|record|record number|record no|record id|document|document no|rx|rx number|prescription|script no|donor id|unit no|bag no|
        uid|study uid|series uid|instance uid|study instance uid|series instance uid|sop instance uid|frame of reference uid|studyinstanceuid|seriesinstanceuid|sopinstanceuid|frameofreferenceuid|id|identifier|other patient ids|admission id|service episode id|
        prontuario|pront|registro|registro hospitalar|reg|rh|matricula|atendimento|no do atendimento|no de atendimento|internacao|no de acesso|numero de acesso|acesso|acession|pedido|no do pedido|solicitacao|requisicao|guia|guia no|senha|carteirinha|carteira|no da carteira|carteira do convenio|convenio no|apolice|contrato|conta|protocolo|processo|oficio|autorizacao|
        cpf|cnpj|rg|cns|cartao sus|cartao nacional de saude|sus|nis|pis|pasep|pis/pasep|titulo de eleitor|cnh|ctps|rne|passaporte|identidade|certidao|declaracao de nascido vivo|dnv|inscricao|
        crm|crm-sp|crm/sp|crm-rj|crm-mg|coren|coren-sp|cro|crf|crefito|crp|crn|cress|crea|conselho|renavam|chassi|no de serie|numero de serie|serie|n serie|ns|patrimonio|equipamento|lacre|amostra|exame no|exame|laudo no|laudo|estudo|codigo|codigo do paciente|id do paciente|id paciente|nota fiscal|nf|rastreio|rastreamento|chamado|os no|ordem de servico|
        病案号|病历号|住院号|门诊号|登记号|就诊号|急诊号|检查号|检查编号|影像号|放射号|超声号|病理号|标本号|样本号|条码号|条形码|申请单号|医嘱号|处方号|报告号|报告编号|流水号|序列号|设备序列号|出厂编号|机身号|设备编号|资产编号|固定资产号|编号|工号|员工号|职工号|医保号|医保卡号|社保号|社保卡号|参保号|保单号|银行卡号|银行卡|卡号|账号|帐号|账户|身份证号码|身份证号|身份证|证件号码|证件号|
        护照号|护照|军官证|驾驶证号|驾驶证|执业证号|执业证书编号|资格证号|医师编码|学号|订单号|快递单号|运单号|单号|发票号|收据号|就诊卡号|就诊卡|诊疗卡号|健康卡号|患者id|病人id|患者编号|病人编号|受试者编号|受试者号|入组号|检查实例uid|序列实例uid|实例uid|微信号|微信|qq号|qq|车架号|发动机号|车牌号码
    """,
    Kind.CODE: """
        ae|ae title|aet|aetitle|calling ae|called ae|calling ae title|called ae title|station|station name|stationname|workstation|computer name|device name|user|user id|userid|user name|username|login|logged in as|account name|logon|issuer of patient id|
        usuario|login do usuario|estacao|nome da estacao|titulo ae|用户名|用户|账户名|登录名|工作站|站名|站点名称|设备名称
    """,
    Kind.PLATE: "plate|license plate|licence plate|number plate|plate no|plate number|registration plate|vehicle|vehicle reg|car reg|placa|placa do veiculo|车牌|车牌号",
    Kind.DATE: """
        dob|date of birth|birth date|birthdate|birthday|patientbirthdate|patient birth date|d.o.b|data de nascimento|nascimento|nasc|dn|出生日期|生日|出生年月
    """,
    Kind.PHONE: "phone number|telephone number|fax number|pager number|home phone|work phone|cell phone|telecom|联系电话|家属电话",
    Kind.STREET: """
        address|home address|street address|mailing address|patient address|patient's address|institution address|institutionaddress|street|addr|address line|line|residence|residing at|endereco|logradouro|endereco residencial|rua e numero|
        地址|家庭住址|住址|现住址|家庭地址|通讯地址|联系地址|户籍地址|户口地址|工作地址|收货地址|寄送地址
    """,
    Kind.TOWN: "city|town|place of birth|birthplace|municipality|county|cidade|municipio|bairro|naturalidade|local de nascimento|distrito|籍贯|出生地",
    Kind.POSTCODE: "zip|zip code|zipcode|postal code|postalcode|postcode|post code|cep|邮编|邮政编码",
    Kind.ORGANIZATION: """
        institution|institution name|institutionname|hospital|hospital name|facility|facility name|clinic|clinic name|site|site name|employer|employer name|company|company name|organization|organisation|organization name|managing organization|school|school name|laboratory|lab name|performing lab|practice|practice name|home health|outside hospital|transferring facility|referring hospital|referring facility|sending facility|receiving facility|insurance company|insurer|payer|pharmacy name|
        instituicao|nome da instituicao|unidade|unidade de saude|estabelecimento|empresa|empregador|razao social|convenio|operadora|escola|laboratorio|clinica|
        机构名称|医院名称|单位|工作单位|就诊医院|医疗机构|转出医院|转入医院|单位名称|送检单位|申请单位|学校
    """,
    Kind.HOST: "host|hostname|host name|server|server name|servername|computer|maquina|servidor|主机名|主机|服务器名",
    Kind.KEPT: """
        manufacturer|manufacturer model|model|model name|manufacturermodelname|software|software version|software versions|version|firmware|lot|lot number|lot no|batch|batch number|catalog|catalog number|ref|study description|series description|protocol name|modality|body part|body part examined|sex|gender|age|weight|height|
        sop class uid|sopclassuid|transfer syntax|transfer syntax uid|transfersyntaxuid|media storage sop class uid|implementation class uid|fabricante|modelo|versao|lote|sexo|idade|peso|altura|modalidade|quarto|leito|bed|room|ward|制造商|型号|版本|软件版本|批号|性别|年龄|床号|病房
    """,
}


def _parse(table: dict[Kind, str]) -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    for kind, labels in table.items():
        for label in labels.replace("\n", "|").split("|"):
            if label.strip():
                kinds[label_key(label)] = kind
    return kinds


def parse_labels(text: str) -> frozenset[str]:
    """The keys of labels separated by bars."""
    return frozenset(label_key(label) for label in re.sub(r"\s*\n\s*", " ", text).split("|"))


def label_key(label: str) -> str:
    """What all writings of a label have in common."""
    return re.sub(r"[\s_'-]+", "", label)


def _escaped(character: str) -> str:
    if character == " ":
        return r"[ _-]?"
    return "'?" if character == "'" else re.escape(character)


LABELS = _parse(_TABLE)
_WORDS = sorted(
    {
        label.strip()
        for labels in _TABLE.values()
        for label in labels.replace("\n", "|").split("|")
        if label.strip()
    }
)
LABEL = re.compile(
    rf"(?:(?<![a-z0-9])(?:{trie((w for w in _WORDS if w.isascii()), _escaped)})(?![a-z])|(?:{trie((w for w in _WORDS if not w.isascii()), _escaped)}))"
)
