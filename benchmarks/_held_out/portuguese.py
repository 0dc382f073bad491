"""Brazilian notes in the styles that leave wards and scanners, and clinical text without identifiers."""

from __future__ import annotations

TEMPLATES = {
    "alta": "SUMÁRIO DE ALTA\nPaciente: {1.full}\nProntuário: {mrn}   DN: {dob}\nInternação: {date}   Alta: {date}\nPaciente do sexo feminino, {age} anos, procedente de {city}, deu entrada com dispneia e edema de MMII. Evoluiu bem com furosemida EV. A filha, {2.giv}, acompanhou a internação.\nMédica responsável: Dra. {3.full}, CRM PE {crm}\nRetorno ambulatorial com Dr. {4.fam} em {date}.",
    "evolucao": "{date} - Evolução de enfermagem\n{1.giv} {1.fam}, leito {bed}, consciente, orientado, PA 130x80, FC 76, SpO2 95% em ar ambiente. Aceitou dieta. SVD com 300 ml. Esposa {2.giv} presente. Curativo em MID trocado. Téc. {3.giv}, COREN {crm}.",
    "ps": "PRONTO-SOCORRO {org}\n{1.caps}, {age}a, trazido pelo SAMU após queda de moto placa {plate}. Glasgow 15, ABCDE ok. RX sem fraturas. Mãe {2.caps_giv} avisada no {phone}. Dr {3.caps_fam} ciente.",
    "carta": "{city}, {date}.\n\nPrezado Dr. {2.full},\n\nEncaminho a Sra. {1.full}, CPF {cpf}, RG {rg}, residente na {street}, CEP {zip}, com diagnóstico de doença de Crohn em uso de azatioprina. Trabalha no {org}. Telefone {phone}.\n\nAtenciosamente,\n{3.full}\nCRM/SP {crm}",
    "whats": "oi dra, aqui é a {1.lower_giv}, mãe do {2.lower_giv}. ele ainda ta com febre, 38,5. o dr {3.lower_fam} passou dipirona mas n melhorou. a gente mora no {city} agora. meu zap é {phone}",
    "laudo": "RESSONÂNCIA MAGNÉTICA DO CRÂNIO\nNome: {1.full}\nAtendimento: {acc}\nData do exame: {date}\nSolicitante: Dr(a). {2.full}\nTécnica: sequências T1, T2, FLAIR e difusão.\nAchados: focos de hipersinal na substância branca, Fazekas I. Sem restrição à difusão.\nLaudado por {3.full} - CRM {crm}. Comparado ao exame de {month_year}.",
    "sus": "Cartão SUS {cns}, nome da mãe {2.full}, paciente {1.full}, nascida em {dob}, {city}. ACS {3.giv} fará visita em {date}. UBS: {org}.",
    "idosa": "Dona {1.giv}, {age90} anos, acamada, cuidadora {2.giv}. Alzheimer avançado, úlcera sacral grau III, em uso de Rivotril e donepezila. Sobrinho {3.full} é o responsável, {phone}.",
    "plantao": "Passagem de plantão\nLeito {bed} - {1.fam}: PO de colecistectomia, dreno de Penrose\nLeito {bed} - Sr. {2.giv}: ICC perfil B\nLeito {bed} - {3.full}: aguarda TC\nInterconsulta: {4.fam} (neuro), ramal {ext}",
    "atestado": "Atesto para os devidos fins que {1.full}, portador do CPF {cpf}, esteve sob meus cuidados em {date}, necessitando de 5 dias de afastamento. CID M54.5.\n{city}, {date}\n{2.full} CRM-MG {crm}",
    "parecer": "Ao colega {1.fam}: avaliei {2.full}, {age} anos, a pedido da Dra. {3.giv}. Sopro sistólico 2/6, Murphy negativo, Lasègue ausente. ECG de {date} com BRD. Sugiro ecocardiograma no {org}. Obrigado, {4.init_last}",
    "obst": "Gestante {1.full}, G2P1A0, IG 38s 2d, acompanhada do marido {2.giv}. Admitida na {org} em {date}. RN de {1.giv}, peso 3.150 g, Apgar 8/9. Pediatra: {3.full}. Endereço: {street}, {city}.",
    "email": "De: {1.full} <{email}>\nPara: {2.giv}\nAssunto: exame {3.fam}\n\n{2.giv}, o paciente {3.full} (pront. {mrn}) remarcou a TC para {date}. Link: {url}\nAbs, {1.giv}",
    "dump": "(0008,0080) LO [{org}] # InstitutionName\n(0008,0090) PN [{2.dicom_mixed}] # ReferringPhysicianName\n(0008,1030) LO [TC TORAX COM CONTRASTE] # StudyDescription\n(0010,0010) PN [{1.dicom}] # PatientName\n(0010,0020) LO [{mrn}] # PatientID\n(0010,0030) DA [{da}] # PatientBirthDate\n(0018,0015) CS [TORAX] # BodyPartExamined\n(0018,1000) LO [{serial}] # DeviceSerialNumber",
    "tecnico": "OS aberta por {1.full}, {org}. Tomógrafo nº de série {serial}, host {host}, IP {ip}. Técnico {2.giv} {2.fam} trocou o tubo em {date}. Contato {phone}.",
    "psico": "{1.giv}, {age} anos, refere conflitos com o ex-marido {2.giv} e a sogra {3.giv}. Mora na {street}, {city}. Trabalha na {org}. Retorno {date} com {4.full}.",
}

CLEAN = (
    "Paciente em regular estado geral, descorada 2+/4+, desidratada, taquipneica, afebril. Murmúrio vesicular reduzido na base direita com estertores finos. Abdome globoso, timpânico, Piparote negativo, Traube livre. Edema 3+/4+ em membros inferiores, Godet positivo. Homans negativo.",
    "TOMOGRAFIA DE TÓRAX: opacidades em vidro fosco bilaterais, periféricas, acometendo cerca de 25 % do parênquima. Linfonodos mediastinais de até 9 mm. Sem derrame. Cateter de Swan-Ganz no tronco da pulmonar. Impressão: pneumonia viral, CO-RADS 5.",
    "Conduta: manter Tazocin 4,5 g 6/6h, suspender Vancomicina, desmame de Noradrenalina, Clexane 40 mg, Nexium, Plasil se náusea. Solicito TC de abdome, Gasometria, PCR, Procalcitonina. Fisioterapia respiratória e motora. Nutrição: Peptamen 50 ml/h.",
    "Cirurgia: hernioplastia inguinal direita a Lichtenstein. Tela de Marlex fixada com Prolene 2-0. Hemostasia com Ligasure. Sem intercorrências. Sangramento desprezível. Dreno de Penrose não utilizado. Alta em 24 horas.",
    "Mamas heterogeneamente densas, padrão C do ACR. Nódulo oval circunscrito de 8 mm no QSE da mama esquerda. Calcificações em pipoca. Linfonodos axilares de aspecto habitual. BI-RADS 3. Controle semestral.",
    "Gestante, DUM incerta, IG pelo ultrassom 32s4d, BCF 142, AU 31 cm, Leopold: cefálico, dorso à esquerda. Bishop 4. Streptococcus B negativo. Coombs indireto negativo. Uso de Metildopa, sulfato ferroso e Utrogestan.",
    "Pct ansioso, queixando-se de dor lombar irradiada p/ MIE, Lasègue + 45°, Bragard +, reflexo aquileu diminuído. RM: extrusão L5-S1, Modic 1, Pfirrmann IV. Prescrito Lyrica 75, Tramal, Mioflex. Encaminhado p/ Pilates e RPG.",
    "Eco: VE com hipertrofia concêntrica, FE 62 % (Teichholz), disfunção diastólica grau I, PSAP 35 mmHg. Insuficiência mitral discreta. Aorta ascendente 38 mm. Sem trombos. Sinal de McConnell ausente.",
    "Recém-nascido: Apgar 9/10, Capurro 39s, Moro simétrico, Ortolani e Barlow negativos, teste do olhinho normal, mancha mongólica. Kanakion feito, Hepatite B e BCG aplicadas. Icterícia zona II de Kramer.",
    "ok, vou repetir a sequência. o paciente mexeu muito no flair. contraste acabou, pedi mais gadolínio. a bobina de joelho ta com defeito, usa a flex. próximo é rm de ombro",
    "Escalas: Glasgow 14, Braden 13, Morse 55, Ramsay 3, RASS -2, Katz F, Lawton 9, Mini-Mental 19/30, Barthel 45, GDS 7, Fugulin 24. Decúbito elevado 30°. Coxins em calcâneos. Curativo com Dersani e Kollagenase.",
    "Modalidade: CT; Fabricante: Toshiba; Modelo: Aquilion; Descrição: Abdome Total; Protocolo: Abdome Trifásico; Espessura 5 mm; kVp 120; mAs 210; Kernel FC08; Contraste: Iopamiron 370, 90 ml a 3 ml/s; DLP 640.",
)
