// Runs before the first paint, so that a chosen theme does not flash; without a choice the system decides.
const chosen = localStorage.getItem("fledge.theme");
if (chosen) document.documentElement.dataset.theme = chosen;
