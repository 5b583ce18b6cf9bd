"use strict";
// The softened distribution, softmax(logits / temperature); null stands for an impossible class.
function soften(logits, temperature) {
  const scaled = logits.map((logit) => (logit === null ? -Infinity : logit / temperature));
  const highest = Math.max(...scaled);
  const grown = scaled.map((value) => Math.exp(value - highest));
  const total = grown.reduce((sum, value) => sum + value, 0);
  return grown.map((value) => value / total);
}

function entropy(probabilities) {
  return probabilities.reduce((sum, p) => (p > 0 ? sum - p * Math.log(p) : sum), 0);
}

// KL(teacher || student) in nats.
function divergence(teacher, student) {
  return teacher.reduce((sum, p, k) => (p > 0 ? sum + p * Math.log(p / student[k]) : sum), 0);
}
