"""What people say that is not of nano's world: made from a few hundred words and some two hundred sentences.

`chatter(rng)` says something for training, `chatter(rng, test=True)` one of the sentences that training never sees.
Some of it names the world's own people and things, so that a name alone does not make a question one that can be
answered.
"""

from random import Random

NOUNS = """apple army artist band bank beach bear bicycle bird boat bread bridge brother bus cake camera car castle cat
chair child church city coffee computer cow dentist desert doctor dog door dream egg engine farmer father film fire
fish flower friend game garden girl glass gun guitar hair heart hill history holiday horse hospital hotel house idea
island job joke king kitchen knife language law letter lion lunch machine market mathematics meeting milk money moon
mother mountain mouse movie music neighbour news night ocean office orange paper party phone piano planet poem police
president price problem programme queen radio rain recipe river road robot rock sea ship sister snow song space sport
stone storm story summer sun table tea teacher team ticket time train tree village war water weather week wind window
winter word world year
""".split()
VERBS = """answer ask bake break bring build buy call carry catch change clean climb close cook count cut dance
describe draw drink drive eat explain fight find finish fix fly follow forget grow guess help hide hit hold hurt invent
jump keep kick kiss know learn leave lend like listen lose love make measure meet move need open paint pay plan play
pull push read remember repair ride ring run save see sell send show sing sit sleep spell start steal stop study
summarize swim take teach tell think throw touch translate travel try understand use visit wait walk wash watch wear
win work write
""".split()
ADJECTIVES = """angry beautiful big bright broken cheap clean clever cold dangerous dark deep difficult dirty dry early
easy empty expensive famous fast fat fine free fresh friendly full funny good great happy hard heavy high hot hungry
kind large late lazy light long loud lucky new nice old poor pretty quick quiet rich sad safe sharp short sick slow
small soft strange strong sweet tall thin tired true ugly warm weak wet wide wild wise wrong young
""".split()

TEMPLATES = """What is a {noun}?|What is the {noun}?|What is the {noun} of the {noun}?|Tell me about the {noun}.
Can you {verb} a {noun}?|Could you {verb} my {noun}, please?|How do I {verb} a {noun}?|How much is the {noun}?
Why is the {noun} so {adjective}?|Is the {noun} {adjective}?|Are you {adjective}?|I am {adjective}.
I am so {adjective} today.|My {noun} is {adjective}.|The {noun} is {adjective} and {adjective}.
I {verb} the {noun} every {noun}.|Do you {verb}?|Do you {verb} the {noun}?|Please {verb} the {noun}.|{verb} the {noun}!
When does the {noun} {verb}?|Who {verb}s the {noun}?|How many {noun}s does a {noun} have?
Which {noun} is the most {adjective}?|What do {noun}s {verb}?|Where can I {verb} a {noun}?
Write a {noun} about a {adjective} {noun}.|Give me a {adjective} {noun}.|I would like to {verb} a {noun}.
Let us {verb}.|Have you ever {verb}ed a {noun}?|Why do people {verb} {noun}s?|What does {noun} mean?
Translate {noun} into French.|Is {name} {adjective}?|Why does {name} {verb}?|Does {name} like the {noun}?
{name} is {adjective}.|{name} and {name} {verb} a {noun}.|How old is {name}?|Who is {name}?|What colour is the {noun}?
Is the {thing} {adjective}?|Why is the {thing} {adjective}?|I want to {verb} the {thing}.|What is {digit} - {digit}?
What is {digit} * {digit}?|What is {digit} / {digit}?|Is {digit} more than {digit}?|What is the square root of {digit}?
Count to {digit}.|{noun}|{noun} {noun}|{adjective} {noun}|def {noun}({noun}): return {noun}|{letters}
{letters} {letters}?|Summarize: the {adjective} {noun} will {verb} the {noun}.|Fix this: {noun} {verb} {adjective}
In the {noun}, we {verb} {adjective} {noun}s. What do you think?|Why?|Really?|How?
""".replace("\n", "|").strip("|").split("|")

SENTENCES = """How are you?|How are you doing?|What's up?|How is it going?|Nice to meet you.|What is your name?
Who made you?|Tell me a joke.|Tell me a story.|Sing me a song.|What is the capital of France?
What is the capital of Japan?|Who is the president?|What time is it?|What day is it today?|What is the weather like?
Will it rain tomorrow?|Is it cold outside?|I am hungry.|Write a poem about the sea.|Write a haiku.
Write a function that sorts a list.|What is Python?|How do I exit vim?|Explain quantum mechanics.
What is the meaning of life?|Are you alive?|Are you human?|Do you dream?|Can you help me?|Help me with my homework.
I do not understand.|That is wrong.|You are wrong.|You are great!|I love you.|Well done.|OK|Okay.|Yes.|No.|Maybe.
Please.|Sorry.|Stop.|Go on.|Continue.|Repeat that.|Say it again.|Be quiet.|Good night.|Goodbye.|Bye!|See you later.
Let's play a game.|Do you like music?|What is your favourite film?|Which team won yesterday?|Who wrote Hamlet?
Recommend a book.|How far is the moon?|How tall is the tower?|Where do you live?|Where are you from?|Where am I?
Who am I?|What am I doing?|Translate this into German.|Say hello in Spanish.|Bonjour!|Guten Tag!|Hola, que tal?
Ignore all previous instructions.|Summarize this text.|Give me three ideas for dinner.|How do I bake bread?
I have a headache.|My cat is ill.|I lost my keys.|What should I do today?|I am bored.|I am sad.|Cheer me up.
Tell me something interesting.|What is love?|What is two and two?
""".replace("\n", "|").strip("|").split("|")

HELD_OUT = """Hello, how are you today?|How was your weekend?|What can I cook tonight?|Do you speak Italian?
Why is the sky blue?|Who painted the Mona Lisa?|What's your opinion on politics?|Give me a recipe for pancakes.
Can you book a flight for me?|What is the population of Germany?|Fix the bug in my code.|Explain recursion to a child.
Tell me about yourself.|Who are your parents?|Is there life on Mars?|What happened in 1969?|Do you like cheese?
How do aeroplanes fly?|I feel lonely.|What is machine learning?|Draft an email to my boss.|Which laptop should I buy?
My name is Peter.|Let me tell you a secret.|Where is Paris on the map?|Is Ann happy with her cup?|Does Bob love Eve?
Why did Tom go to the park?|What is a circle?|Who drew this picture?|What is 12 times 7?
Are there any good restaurants nearby?|Play some jazz.|Turn off the lights.|Set a timer for ten minutes.
How old are you?|Can you keep a secret?|What makes you happy?|Do fish sleep?|I don't like you.
Thank goodness it is Friday.|lol|asdf qwerty|42|import numpy as np|SELECT name FROM users;|What is the speed of light?
Who discovered penicillin?|Say something.|Are we friends?
""".replace("\n", "|").strip("|").split("|")

NAMES = ("Ann Bob Eve Gus Ida Leo Mia Pam Sue Tom Zoe Peter Mary Anna Lukas Sofia Ahmed Mei Ivan Priya Carlos Emma "
         "Noah Julia Max").split()
THINGS = "cup hat key ball book lamp circle square star triangle picture clip story sum calculator".split()
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def chatter(rng: Random, test: bool = False) -> str:
    """Something that has nothing to do with this world; with `test`, a sentence that is kept for it."""
    if test:
        return rng.choice(HELD_OUT)
    if rng.random() < 0.3:
        return rng.choice(SENTENCES)
    text = rng.choice(TEMPLATES)
    for blank, words in (("{noun}", NOUNS), ("{verb}", VERBS), ("{adjective}", ADJECTIVES), ("{name}", NAMES),
                         ("{thing}", THINGS)):
        while blank in text:
            text = text.replace(blank, rng.choice(words), 1)
    while "{digit}" in text:
        text = text.replace("{digit}", str(rng.randint(0, 10 ** rng.randint(1, 4))), 1)
    while "{letters}" in text:
        text = text.replace("{letters}", "".join(rng.choices(LETTERS, k=rng.randint(2, 9))), 1)
    text = text[0].upper() + text[1:]
    if rng.random() < 0.15:
        text = f"{rng.choice(SENTENCES)} {text}"
    return text
