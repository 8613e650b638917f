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
    "In a few words, what does {name} do?",
    "To put it simply, what is {name} for?",
    "What is {name} used for?",
    "What role does {name} play?",
    "Please tell me what {name} does.",
    "Tell me briefly what {name} is.",
    "Give a short summary of {name}.",
    "I have never used {name}. What does it do?",
    "My colleague mentioned {name}. What is that?",
    "How would the documentation describe {name}?",
    "Let me know what {name} is about.",
    "So what is {name}?",
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
    "Briefly: what is {name}?",
    "In plain words, what is {name}?",
    "What is {name} good for?",
    "What purpose does {name} serve?",
    "What is the use of {name}?",
    "Why would anyone use {name}?",
    "Please describe {name}.",
    "Sum up {name} in a sentence.",
    "One sentence about {name}, please.",
    "I found {name} in some code. What does it mean?",
    "What is meant by {name}?",
    "Look up {name} for me.",
    "{name}, in one sentence?",
    "{name} - what does it do?",
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
    "What do we call this? {summary}",
    "I only remember what it does: {summary} What is its name?",
    "What would I write to get this? {summary}",
)
PROMPTED_REVERSE = (
    "What is the name of this? {summary}",
    "Its documentation says: {summary} What is it called?",
    "Which one does this: {summary}",
    "Tell me the name for: {summary}",
    'Which name has this description? "{summary}"',
    "Give me the name that is described so: {summary}",
    "Somebody put it like this: {summary} Which name was meant?",
    "What must I look for if I need this? {summary}",
    "This is all I know: {summary} Which name is it?",
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
