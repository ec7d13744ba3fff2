"""Which category a picture is in, from its package and its path."""

import re
from collections.abc import Mapping, Sequence

# What names begin with, in folders that hold several categories.
WORDS: Mapping[str, str] = {
    "birds": (
        "baby-tux bird blackbird chick chicken crow dove duck eagle flamingo goose gosling hen heron hummingbird jay "
        "kingfisher magpie northern ostrich owl parakeet parrot peacock pelican penguin pigeon pinguino rooster "
        "scarlet shrike sparrow spoonbills swan swans toucan turkey tux vulture"
    ),
    "mammals": (
        "alpaca anteater antelope armadillo baby_rabbit bat bear beaver bison buffalo bull calf camel camels cani cat "
        "cheetah chimp cow cub deer doe dog donkey elephant elk fawn flying_fox fox gibbon giraffe goat gopher "
        "gorilla guinea hamster hedgehog hippo hippopotamus horse hyena jaguar kangaroo kitten koala lama lemur "
        "leopard lion lioness llama long_nosed macaque meerkats mole monkey moose mouse nubian opossum otter ox panda "
        "panther pig pika polar_bear pony pug puppy rabbit ram rat red_panda rhinoceros sheep skunk sloth squirrel "
        "tiger wolf zebra"
    ),
    "insects": (
        "ant bee beetle bug butterfly caterpillar dragonfly grasshopper insect ladybug mosquito punaisa scorpion "
        "spider wasp"
    ),
    "sea-animals": (
        "clam crab crawfish dolphin fish jellyfish lobster narwhal octopus orca oyster piranha ray seal shark shrimp "
        "squid starfish whale"
    ),
    "reptiles": (
        "alligator architetto az chameleon cobra crocodile dinosaur dragon frog frogs iguana lindworm lizard "
        "lucertola lucertolona lucertolone ramarro rana reptile salamander snake turtle viper"
    ),
    "fruit": (
        "apple apricot avocado bananas blackberries blueberries cacao cherries coconut fig fruit_platter "
        "fruitcollection grapefruit grapes kernel kiwi lemon lime mango melon olives orange papaya peach pear plum "
        "plums raspberry strawberry watermelon"
    ),
    "vegetables": (
        "artichokes asparagus aubergine beans broccoli cabbage carrot cauliflower cayennepepperrevisited celery "
        "champignon corn cucumbers garlic leek lettuce onion peas peppers pomodori potato potatoes pumpkin radish "
        "spinach squash tomato turnip zucca"
    ),
    "sweets": (
        "cake candied candy chocolate cookie cupcake dessert doughnut fortune_cookie fudge gum ice_cream jelly "
        "marshmallow pie sprinkle"
    ),
    "drinks": "coffee juice lemonade milk tea water_bottle",
    "meals": (
        "bacon beef bowl_of bread bun burrito cheese cheesy egg feast fondue french fries galette ham hamburger "
        "hot_dog lasagna lunch mashed_potatoes meal meat menu onion_rings perogies pizza pretzel rice roast sandwich "
        "sausage slice soup spaghetti steak stew submarine thanksgiving turkey_platter"
    ),
    "land-vehicles": (
        "ambulans autos bicycle big bike blazer bmw bus bus1 bus2 car car1 car2 convertible convertible1 convertible2 "
        "convertible3 dodge fire formula hummer motorcycle old_car old_truck redcar shelby skoda small sportcar "
        "street-cleaner street_cleaner taxi toyota train tram tramway truck van"
    ),
    "boats-aircraft": (
        "airplane airplane1 boat canoe helicopter helicopter1 pallone plane raft rocket sail sail-boat sail_boat ship "
        "soviet tug-boat tug_boat yacht"
    ),
    "signs": (
        "airplane_01 bambi bus_lane bus_opposite buses cattle crosswind cycle cycles drawbridge end evel grounded "
        "horse_01 kaboom lorry motorway no old_folks pass road roundabout street_sign tram_01 trams tunnel turn two "
        "zigzag"
    ),
    "plants": (
        "acorn albero arbre bamboo cactus cacuts cannabis daffodil fall flower-bed flower_vase flowers gumnut island "
        "leaf magnolia mushroom olivier palmtree reed sakura shamrock simple sun toadstool tree tulips"
    ),
    "musical-instruments": "drum drum1 drum2 mic",
    "electronics": "laptop",
}

# Package, regular expression for the start of the path below its root, category; or "=" and the categories among which
# the words above decide. The first that matches is taken.
OC, TP, EM, GC, PY, SC, SH = (
    "openclipart-png",
    "tuxpaint-stamps-default",
    "fonts-noto-color-emoji",
    "gcompris-qt-data",
    "pysiogame",
    "scratch",
    "sweethome3d-furniture",
)
RULES: tuple[tuple[str, str, str], ...] = (
    (OC, "animals/birds", "birds"),
    (OC, "animals/bugs", "insects"),
    (OC, "animals/dinosaurs", "reptiles"),
    (OC, "animals/fish", "sea-animals"),
    (OC, "animals/mammals", "mammals"),
    (OC, "animals/[^/]*$", "= birds mammals insects sea-animals reptiles"),
    (OC, "buildings/(homes|[^/]*$)", "buildings"),
    (OC, "buildings/furniture", "furniture"),
    (OC, "computer/hardware", "electronics"),
    (OC, "computer/icons/(flat-theme/device|lemon-theme/devices)", "electronics"),
    (
        OC,
        "computer/(computer|crt|doublesight|etiquette_(lap|pri|sca)|green_comp|joy|lcd|mouse_(the|scroll)|nikon|notebook|pc_|"
        "phone|printer|server|thin|tft|tv|webcam|workstation|classic_phone|cleanpalm|pda|gis)",
        "electronics",
    ),
    (
        OC,
        "electronics/(cam|cinep|compact|macchina|sony|tele|video|zinf|casco|satellite|cassette)|office/telephone",
        "electronics",
    ),
    (OC, "food/beverages", "drinks"),
    (OC, "food/(breads|meats|dairy)", "meals"),
    (OC, "food/desserts", "sweets"),
    (OC, "food/fruit", "fruit"),
    (OC, "food/vegetables", "vegetables"),
    (OC, "food/[^/]*$", "= fruit vegetables sweets drinks meals"),
    (OC, "geography/[^/]*$", "maps"),
    (OC, "(office|education)/[^/]*$|education/books", "stationery"),
    (OC, "people/bodypart", "body-parts"),
    (OC, "people/clothing", "clothing"),
    (OC, "people/smilies", "smileys"),
    (OC, "people/(stickmen|[^/]*$)", "people"),
    (OC, "plants/flowers", "plants"),
    (OC, "plants/trees", "plants"),
    (OC, "plants/[^/]*$", "= plants vegetables"),
    (OC, "recreation/music", "musical-instruments"),
    (OC, "recreation/sports", "sports"),
    (OC, "signs_and_symbols/flags/(?!semaphore)", "flags"),
    (OC, "signs_and_symbols/weather", "weather"),
    (OC, "tools/(?!weapons|toys)", "tools"),
    (OC, "transportation/boating", "boats-aircraft"),
    (OC, "transportation/roadsigns", "signs"),
    (OC, "transportation/vehicles", "land-vehicles"),
    (OC, "transportation/[^/]*$", "= signs boats-aircraft land-vehicles"),
    (TP, "animals/birds", "birds"),
    (TP, "animals/fish|animals/shellfish|animals/mammals/aquatic", "sea-animals"),
    (TP, "animals/insects", "insects"),
    (TP, "animals/(amphibians|lizards|dinosaur)", "reptiles"),
    (TP, "animals/(mammals|marsupials)(?!.*toys)", "mammals"),
    (TP, "clothes", "clothing"),
    (TP, "food/dessert", "sweets"),
    (TP, "food/fruit", "fruit"),
    (TP, "food/vegetables", "vegetables"),
    (TP, "hobbies/music", "musical-instruments"),
    (TP, "household/tools", "tools"),
    (TP, "naturalforces", "weather"),
    (TP, "people/(cartoon|[^/]*$)", "people"),
    (TP, "plants/flowers", "plants"),
    (TP, "plants/trees", "plants"),
    (TP, "sports", "sports"),
    (TP, "symbols/alphabets/(english|german|spanish)", "letters"),
    (TP, "symbols/alphabets/asl", "body-parts"),
    (TP, "symbols/faces", "smileys"),
    (TP, "town/(houses|monuments)", "buildings"),
    (TP, "town/flags", "flags"),
    (TP, "town/roadsigns", "signs"),
    (TP, "vehicles/flight", "boats-aircraft"),
    (TP, "vehicles/ship", "boats-aircraft"),
    (TP, "vehicles|military/vehicles", "land-vehicles"),
    (EM, "Activities/sport", "sports"),
    (EM, "Animals & Nature/(animal-mammal/(?!cat face|paw)|.*monkey-face)", "mammals"),
    (EM, "Animals & Nature/animal-bird", "birds"),
    (EM, "Animals & Nature/animal-(amphibian|reptile)", "reptiles"),
    (EM, "Animals & Nature/animal-marine", "sea-animals"),
    (EM, "Animals & Nature/animal-bug", "insects"),
    (EM, "Animals & Nature/plant-flower", "plants"),
    (EM, "Animals & Nature/plant-other", "plants"),
    (EM, "Food & Drink/food-fruit", "fruit"),
    (EM, "Food & Drink/food-vegetable", "vegetables"),
    (EM, "Food & Drink/food-(prepared|asian)", "meals"),
    (EM, "Food & Drink/food-sweet", "sweets"),
    (EM, "Food & Drink/food-marine", "sea-animals"),
    (EM, "Food & Drink/drink", "drinks"),
    (EM, "Flags/(country|subdivision)", "flags"),
    (EM, "Objects/clothing", "clothing"),
    (EM, "Objects/musical-instrument", "musical-instruments"),
    (EM, "Objects/(computer|phone|light & video/.*(cam|tele|proj))", "electronics"),
    (EM, "Objects/(book-paper|writing|office)", "stationery"),
    (EM, "Objects/tool", "tools"),
    (EM, "People & Body/(hand|body-parts)", "body-parts"),
    (EM, "People & Body/person", "people"),
    (EM, "Smileys & Emotion/face", "smileys"),
    (EM, "Symbols/(warning|transport-sign)", "signs"),
    (EM, "Symbols/(keycap|alphanum)", "letters"),
    (EM, "Travel & Places/place-(building|religious)", "buildings"),
    (EM, "Travel & Places/place-geographic", "landscapes"),
    (EM, "Travel & Places/sky & weather", "weather"),
    (EM, "Travel & Places/transport-air/(?!.*(seat|luggage|satellite))", "boats-aircraft"),
    (
        EM,
        "Travel & Places/transport-ground/(?!.*(sign|light|motorway|track|wheel$|pump|stop|barrier|construction))",
        "land-vehicles",
    ),
    (EM, "Travel & Places/transport-water", "boats-aircraft"),
    (GC, "categorization/images/tools", "tools"),
    (GC, "categorization/images/(monuments|renewable/windmill|renewable/dam)|explore_monuments", "buildings"),
    (GC, "categorization/images/fishes|clickgame/(?!sea)", "sea-animals"),
    (GC, "babyshapes/dog|explore_|lang/words_sample|erase", "= birds mammals insects sea-animals reptiles fruit"),
    (GC, "leftright", "body-parts"),
    (GC, "babyshapes/image/Bosschaert_04_\\d", "plants"),
    (PY, "art4apps/animals", "= birds mammals insects sea-animals reptiles"),
    (PY, "art4apps/clothes", "clothing"),
    (PY, "art4apps/construction", "buildings"),
    (PY, "art4apps/(food|fruit_n_veg)", "= fruit vegetables sweets drinks meals"),
    (PY, "art4apps/(people|jobs)", "people"),
    (PY, "art4apps/nature", "landscapes"),
    (PY, "art4apps/sport", "sports"),
    (PY, "art4apps/transport", "= land-vehicles boats-aircraft"),
    (PY, "fish", "sea-animals"),
    (PY, "match_animals|memory/m_", "mammals"),
    (PY, "memory/f_", "fruit"),
    (PY, "memory/v_", "vegetables"),
    (PY, "memory/n_|numbers", "letters"),
    (SC, "Costumes/Animals", "= birds mammals insects sea-animals reptiles"),
    (SC, "Costumes/People", "people"),
    (SC, "Costumes/Letters|Letters|.*/Letters", "letters"),
    (SC, "Costumes/Transportation", "= land-vehicles boats-aircraft"),
    (SC, "Costumes/Things/(base|basketball|beach|soccer|tennis)", "sports"),
    (SC, "Costumes/Things", "= fruit sweets meals musical-instruments electronics"),
    (SC, "Backgrounds/(Nature|Outdoors/(bench|city|hay|hill|route|village|boardwalk))", "landscapes"),
    (SC, "Backgrounds/Outdoors/(building|castle|houses|mansion|school|silos|wooden)", "buildings"),
    (
        SH,
        "(Bedroom|Living room|Office)/.*(bed|chair|sofa|couch|table|desk|shel|cabinet|wardrobe|chest|drawer|stool|"
        "bench|armoire|bookcase|crib|futon|puff|cupboard|dresser|sideboard|nightstand|buffet|commode)",
        "furniture",
    ),
    (SH, "Characters", "people"),
    (
        SH,
        "Exterior/.*(tree|plant|bush|cypress|poplar|acacia|palm|beech|bamboo|cactus|fern|ficus|hedge|peach)",
        "plants",
    ),
    (SH, "Vehicles/(?!.*(boat|plane|ship))", "land-vehicles"),
    (SH, "Vehicles/.*boat", "boats-aircraft"),
    (SH, "Vehicles/.*plane", "boats-aircraft"),
    (
        SH,
        "Office/.*(laptop|computer|printer|phone|screen|monitor|tablet)|"
        "Living room/.*(tv|tele|hifi|stereo|speaker|console)",
        "electronics",
    ),
    ("iso-flags-png-320x240", "", "flags"),
    ("kgeography-data", "", "maps"),
    ("oxygen-icon-theme", "devices/(?!media|network|drive|secure|audio-card)", "electronics"),
    ("oxygen-icon-theme", "emotes", "smileys"),
    ("oxygen-icon-theme", "status/weather", "weather"),
    (
        "gnome-icon-theme",
        "devices/(?!media|network|drive|battery|gnome-dev-(cd|dvd|floppy|hard|media|mo|zip))",
        "electronics",
    ),
    ("gnome-icon-theme", "emotes", "smileys"),
    ("gnome-icon-theme", "status/weather", "weather"),
    ("plasma-workspace-wallpapers", "Autumn|Path|summer|BytheWater|EveningGlow|DarkestHour", "landscapes"),
    ("mate-backgrounds", "nature/(Dune|GreenMeadow|Storm)", "landscapes"),
    ("mate-backgrounds", "nature/(FreshFlower|Garden|YellowFlower)", "plants"),
    ("lxqt-themes", "Valendas|after|beam|cloud|fog|flowers", "landscapes"),
    ("lomiri-wallpapers-16.04", "Bridge|aitzgorri|life|picos|sunset|umang", "landscapes"),
)


def category(package: str, below: str) -> str:
    """The category of the picture at that path below the root of its package; "" if it has none."""
    for one, start, kind in RULES:
        if one == package and re.match(start, below):
            return kind if not kind.startswith("=") else by_words(below.rsplit("/", 1)[-1], kind.split()[1:])
    return ""


def by_words(name: str, allowed: Sequence[str]) -> str:
    """The category, of those allowed, that has the longest word with which the name begins; "" if none has one."""
    matching = [
        (len(word), kind)
        for kind in allowed
        for word in WORDS[kind].split()
        if re.match(re.escape(word) + r"(?![a-z])", name.lower())
    ]
    return max(matching, key=lambda entry: entry[0], default=(0, ""))[1]
