// Mark the words in which two texts differ: what is not part of their longest common sequence of words.
const MOST_WORDS = 3000;

export function differences(first, second, texts, on) {
  if (!first || !second) return;
  if (!on) {
    first.textContent = texts[0];
    second.textContent = texts[1];
    return;
  }
  const [a, b] = texts.map((text) => text.split(/(\s+)/));
  if (a.length > MOST_WORDS || b.length > MOST_WORDS) return;
  const [keepA, keepB] = common(a, b);
  mark(first, a, keepA);
  mark(second, b, keepB);
}

function mark(box, words, keep) {
  box.replaceChildren(
    ...words.map((word, place) => {
      if (keep.has(place) || !word.trim()) return document.createTextNode(word);
      const made = document.createElement("mark");
      made.textContent = word;
      return made;
    }),
  );
}

function common(a, b) {
  const width = b.length + 1;
  const length = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      length[i * width + j] = a[i] === b[j] ? length[(i + 1) * width + j + 1] + 1 : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
  const [keepA, keepB] = [new Set(), new Set()];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) keepA.add(i++), keepB.add(j++);
    else if (length[(i + 1) * width + j] >= length[i * width + j + 1]) i++;
    else j++;
  }
  return [keepA, keepB];
}
