"""The wordings in which names are asked about, in three sets that share none.

Taught ones have demonstrations. Prompted ones have none: they are asked for comparisons and PPO only, as InstructGPT's
prompts for its reward model and PPO went beyond those that had demonstrations (arXiv:2203.02155 §3.2), so that PPO
finds answers to improve. Held-out ones are kept for the evaluation.
"""

TAUGHT_FORWARD = (
    "What does {name} do?",
    "What is {name}?",
    "Explain {name}.",
    "Tell me about {name}.",
    "Describe {name} in one sentence.",
    "What is {name} for?",
    "{name}?",
    "How would you describe {name}?",
    "Can you explain what {name} does?",
    "I came across {name}. What is it?",
    "Summarise {name}.",
    "Remind me what {name} does.",
    "Give me a one-line description of {name}.",
    "{name}: what is it for?",
    "Could you tell me what {name} is?",
    "Help me understand {name}.",
    "When would I use {name}?",
    "Do you know {name}?",
    "What's the point of {name}?",
    "I need a short description of {name}.",
    "Say briefly what {name} does.",
    "What can you tell me about {name}?",
)
PROMPTED_FORWARD = (
    "What happens when I use {name}?",
    "I keep seeing {name}. What does it do?",
    "Please explain {name} to me.",
    "How is {name} documented?",
    "What is the job of {name}?",
    "Give me the gist of {name}.",
    "In one line: what does {name} do?",
    "Define {name}.",
    "What would {name} do for me?",
    "Could you describe {name}?",
    "What does the documentation say about {name}?",
    "Quick question: what is {name}?",
)
HELD_OUT_FORWARD = (
    "Please summarise {name} for me.",
    "What should I know about {name}?",
    "In short, what is the purpose of {name}?",
)
TAUGHT_REVERSE = (
    "Which name is documented as: {summary}",
    "What is this called? {summary}",
    'Which Python name is described as "{summary}"?',
    "Name the one that fits this description: {summary}",
    "I am looking for this: {summary} What is its name?",
)
PROMPTED_REVERSE = (
    "What is the name of this? {summary}",
    "Its documentation says: {summary} What is it called?",
    "Which one does this: {summary}",
    "Tell me the name for: {summary}",
)
HELD_OUT_REVERSE = (
    "Find the name that belongs to this: {summary}",
    "{summary} Which one is that?",
)
FOLLOW_UP = ("And {name}?", "What about {name}?", "And what does {name} do?")
WHICH_MODULE = ("Which module is it in?", "In which module do I find it?")
MODULE_ANSWER = "It is in the {module} module."
SYSTEM = (
    "You are a helpful assistant for Python programmers.",
    "Answer in one sentence, from the documentation.",
    "You know the Python documentation. Say so when you do not know a name.",
)
DECLINE = "I don't know that one; I can't find it in the documentation I read."
