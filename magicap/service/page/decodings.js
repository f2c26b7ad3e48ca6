/** The searches and their settings, as the page shows them. Defaults are the searches' own; a preset's come first. */

export const CONTROLS = {
  top_k: { label: "Candidates per step (k)", hint: "How many of the most probable next tokens compete.", type: "range", min: 1, max: 200, step: 1 },
  alpha: { label: "Degeneration penalty (alpha)", hint: "Higher: fewer repetitions, and less weight for model confidence.", type: "range", min: 0, max: 1, step: 0.05 },
  beta: { label: "Image weight (beta)", hint: "How much the picture counts at each token; at 0 it is ignored.", type: "range", min: 0, max: 10, step: 0.1 },
  beam_size: { label: "Beam size", hint: "How many partial captions are kept at once; more is slower.", type: "range", min: 1, max: 50, step: 1 },
  temperature: { label: "Temperature", hint: "Above 1: more surprising words; below 1: safer ones.", type: "range", min: 0.1, max: 3, step: 0.1 },
  max_new_tokens: { label: "Most tokens", hint: "The caption is cut after this many tokens.", type: "range", min: 1, max: 40, step: 1 },
  soft_prompt: { label: "Soft prompt", hint: "Conditions the language model on the picture.", type: "check" },
  include: { label: "Must have", hint: "Words the caption has to contain, separated by commas.", type: "words" },
  exclude: { label: "Must not have", hint: "Words the caption has to avoid, separated by commas.", type: "words" },
  min_words: { label: "Fewest words", hint: "No caption shorter than this.", type: "number", min: 0, max: 40 },
  max_words: { label: "Most words", hint: "No caption longer than this.", type: "number", min: 1, max: 40 },
};

export const DECODINGS = {
  "beam-magic": {
    label: "Beam magic search", hint: "Compares whole captions and chooses the one most like what people write of such pictures.",
    controls: ["include", "exclude", "min_words", "max_words", "beam_size"], defaults: { beam_size: 10, max_new_tokens: 20 },
  },
  magic: {
    label: "Magic search", hint: "Weighs model confidence and the picture at every token.",
    controls: ["top_k", "alpha", "beta", "max_new_tokens", "soft_prompt"],
    defaults: { top_k: 45, alpha: 0.1, beta: 2, max_new_tokens: 15, soft_prompt: false },
  },
  contrastive: {
    label: "Contrastive search (no picture)", hint: "Magic search without the picture, for comparison.",
    controls: ["top_k", "alpha", "max_new_tokens"], defaults: { top_k: 45, alpha: 0.1, max_new_tokens: 15 },
  },
  greedy: {
    label: "Greedy (no picture)", hint: "Always the most probable token: one caption for all pictures.",
    controls: ["max_new_tokens"], defaults: { max_new_tokens: 15 },
  },
  "top-k": {
    label: "Top-k sampling (no picture)", hint: "Samples from the k most probable tokens.",
    controls: ["top_k", "temperature", "max_new_tokens"], defaults: { top_k: 40, temperature: 1, max_new_tokens: 15 },
  },
  nucleus: {
    label: "Nucleus sampling (no picture)", hint: "Samples from the tokens that hold most of the probability.",
    controls: ["temperature", "max_new_tokens"], defaults: { temperature: 1, max_new_tokens: 15 },
  },
};

export function decodingOf(kind) {
  return DECODINGS[kind] ?? { label: kind, hint: "", controls: [], defaults: {} };
}
