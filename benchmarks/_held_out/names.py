"""Lists of names, places and houses; invented or common, none of them drawn from the training recipe's lists."""

from __future__ import annotations

GIVEN = {
    "en": "Tamika Darnell Keisha Latoya Marcus Deshawn Brittany Tyler Ashley Kaitlyn Hunter Brooke Savannah Wyatt Cheyenne Dakota Ruthanne Mabel Ethel Harold Clarence Mildred Percival Rhiannon Siobhan Eoin Caoimhe Niamh Gethin Angharad Priya Arjun Lakshmi Rajesh Sunita Farid Zainab Yasmin Tariq Hamza Aaliyah Nkechi Chukwuemeka Ngozi Kwame Abena Thandiwe Sipho Mei-Ling Xiuying Haruto Sakura Minjun Soo-Jin Linh Thuy Bao Quetzalli Xochitl Joaquin Guadalupe Consuelo Esperanza Svetlana Dmitri Oksana Bohdan Milica Zvonimir Anneliese Wolfgang Gretchen Solveig Torbjorn Aoife Leilani Kekoa Malia Shanice Trevon Jamal Imani Winona Running Cody Travis Misty Crystal Amber Dustin Kyle Chad".replace(
        " Running", ""
    ).split(),
    "pt": "Aparecida Severino Raimunda Edinaldo Josefa Wanderley Cleusa Neuza Valdemar Ivonete Gilberto Rosângela Lindalva Genivaldo Maricélia Adalberto Francineide Ubiratan Iracema Jandira Tainá Kauê Moacir Jurema Yara Enzo Valentina Heitor Maitê Davi Ísis Anthony Kauane Wesley Jéssica Thaís Rayane Luan Ketlyn Uelinton Claudinei Sirlene Marinalva Ednaldo Dirce Alzira Benedita Hermínia Geraldo Sebastião Conceição Zuleica Odete Nilza Djalma Everaldo Ivanildo Rosilda Creuza Ananias".split(),
}
FAMILY = {
    "en": "Washington Jefferson Booker Gaines Hollingsworth Abernathy Blankenship Castellano DiGiovanni Esposito Featherstone Gallagher Hathaway Ibarra Jankowski Kaczmarek Lindqvist McAllister Nwosu Obafemi Petrosyan Quackenbush Rasmussen Szymanski Tran Nguyen Pham Vasquez Villanueva Wojcik Xiong Yamaguchi Zaragoza Adeyemi Balasubramanian Chatterjee Deshpande Ellsworth Fitzgerald Goldberg Haberman Iyer Johansson Kowalczyk Leibowitz Mkhize Ndlovu O'Sullivan O'Malley Papadopoulos Rosenthal Steinberg Thibodeaux Underhill Venkatesan Whitfield Yazzie Begay Tsosie Zimmerman Ashcroft Birtwistle Cholmondeley Dalrymple Entwistle Fairweather Green Brown White Black King Bishop Parker Cooper Fisher Carter Walker Long Rice Day Snow Love Best Gold Moody Strong Sharp Wise".split()
    + ["van den Berg", "de la Cruz", "Al-Masri", "Del Rosario", "St. Clair", "von Hagen", "MacDonald"],
    "pt": "Nascimento Figueiredo Albuquerque Cavalcanti Mendonça Bittencourt Guimarães Vasconcelos Sampaio Drummond Teixeira Nogueira Pacheco Queiroz Bezerra Gurgel Linhares Peixoto Sobral Tavares Vilela Xavier Zanetti Bortolini Casagrande Dalmolin Fiorentino Giacomini Kuhn Schmitt Wagner Yamamoto Tanaka Nakamura Haddad Salim Cury Abdalla Coelho Carneiro Lobo Leão Pinheiro Oliveira Carvalho Macieira Ribeiro Fontes Serra Monte Barros Lima".split()
    + ["da Silva", "dos Santos", "de Souza", "do Amaral", "das Neves", "e Silva"],
    "zh": [*"王李张刘陈杨黄赵吴周徐孙马朱胡郭何林高罗郑梁谢宋唐许韩冯邓曹", "欧阳", "司徒", "诸葛", *"覃麦区佘仇费"],
}  # fmt: skip
GIVEN_ZH = "建国 秀英 桂兰 淑珍 志强 丽华 子涵 梓萱 浩然 雨桐 欣怡 俊杰 海燕 国庆 晓明 思远 一诺 沐宸 若曦 博文 婷婷 雪梅 德福 金花 玉芬 凤霞 伟 静 敏 磊 洋 艳 超 霞 平 刚 红 英 明 华".split()
CITIES = {
    "en": "Chattanooga Poughkeepsie Albuquerque Wolverhampton Kettering Scunthorpe Winnipeg Saskatoon Wollongong Tallahassee Spokane Boise Duluth Shreveport Yonkers Fresno".split()
    + ["Baton Rouge", "Sioux Falls", "Eau Claire", "Milton Keynes", "Fort Wayne", "Cedar Rapids"],
    "pt": "Uberaba Caruaru Joinville Cascavel Petrolina Sobral Montes Imperatriz Blumenau Piracicaba Anápolis".replace("Montes", "Teresópolis").split()
    + ["Feira de Santana", "Ribeirão Preto", "Montes Claros", "Campina Grande", "São José dos Campos", "Juiz de Fora"],
    "zh": "杭州市西湖区 成都市武侯区 深圳市南山区 苏州市吴中区 武汉市洪山区 济南市历下区 昆明市盘龙区 长沙市岳麓区".split(),
}  # fmt: skip
STREETS = {
    "en": ["Sycamore Street", "Larkspur Lane", "Old Mill Road", "W 47th St", "Magnolia Ave", "Cattail Court", "Prospect Pl", "Kingfisher Way", "Route 9", "Martin Luther King Jr Blvd", "Tottenham Close", "Buttermere Crescent"],
    "pt": ["Rua das Acácias", "Av. Beira Rio", "Rua Marechal Deodoro", "Travessa São Bento", "Alameda dos Ipês", "Rua Padre Cícero", "Avenida Getúlio Vargas", "R. Quinze de Novembro", "Estrada do Campo Limpo"],
    "zh": ["文三路", "天府大道", "科技园南路", "人民路", "珞喻路", "青年东路", "解放西街"],
}  # fmt: skip
ORGANIZATIONS = {
    "en": ["Saint Brendan Medical Center", "Cottonwood Family Clinic", "Bluewater Regional Hospital", "Harlan County Health", "Evergreen Skilled Nursing", "Mercy Ridge Hospice", "Queen Adelaide Infirmary", "Northgate Imaging Associates", "Tidewater Pathology Group", "Whispering Pines Assisted Living", "Lakota Elementary School", "Ironbridge Steelworks", "Royal Devon Children's Hospital", "Palmetto Radiology LLC"],
    "pt": ["Hospital Municipal Santa Rita", "Santa Casa de Misericórdia de Uberaba", "UPA Vila Nova", "Clínica São Lucas", "Hospital das Clínicas de Cascavel", "UBS Jardim Paulista", "Laboratório Bioanálise", "Maternidade Nossa Senhora da Luz", "Hospital Universitário Getúlio Alves", "Escola Municipal Monteiro Lobato", "Metalúrgica Irmãos Bortolini Ltda"],
    "zh": ["浙江大学医学院附属第二医院", "成都市第三人民医院", "南山区妇幼保健院", "仁和康复医院", "苏州大学附属第一医院", "洪山区疾病预防控制中心", "历下区实验小学", "宏达机械有限公司"],
}  # fmt: skip
