// What the web terminal's screen makes of what programs write. The first argument is the script under test.
"use strict";
const assert = require("node:assert");
const { Screen, keyBytes, colour } = require(process.argv[2]);

function screen(rows, columns) {
  const said = [];
  const made = new Screen(rows, columns, (text) => said.push(text));
  const encoder = new TextEncoder();
  return { made, said, put: (text) => made.write(encoder.encode(text)) };
}

{ // Text, colours, the end of a line, and what scrolls away.
  const { made, put } = screen(3, 10);
  put("one\r\n\x1b[31;1mred\x1b[0m plain");
  assert.deepStrictEqual(made.text(), ["one", "red plain", ""]);
  assert.deepStrictEqual([made.lines[1][0].style.fg, made.lines[1][0].style.bold, made.lines[1][4].style.fg], [1, true, null]);
  put("\r\n0123456789ABC\r\n");
  assert.deepStrictEqual(made.text(), ["0123456789", "ABC", ""]);
  assert.deepStrictEqual(made.history.map((line) => line[0].text), ["o", "r"]);
  put("\x1b[38;5;196mx\x1b[48;2;1;2;3my");
  assert.strictEqual(colour(made.lines[2][0].style.fg), "rgb(255,0,0)");
  assert.strictEqual(made.lines[2][1].style.bg, "rgb(1,2,3)");
}
{ // Characters cut anywhere, wide ones, and marks on others.
  const { made } = screen(2, 10);
  for (const byte of new TextEncoder().encode("ä漢e\u0301€")) made.write(Uint8Array.of(byte));
  assert.strictEqual(made.text()[0], "ä漢e\u0301€");
  assert.strictEqual(made.x, 5);
}
{ // Moves and erasing.
  const { made, put } = screen(4, 8);
  put("aaaaaaaa\r\nbbbbbbbb\r\ncccccccc\r\ndddddddd");
  put("\x1b[2;3H\x1b[K\x1b[3;3H\x1b[1K\x1b[4;2H\x1b[2P\x1b[1;2H\x1b[2@X");
  assert.deepStrictEqual(made.text(), ["aX aaaaa", "bb", "   ccccc", "dddddd"]);
  put("\x1b[2;2H\x1b[J\x1b[A\x1b[2D!");
  assert.deepStrictEqual(made.text(), ["!X aaaaa", "b", "", ""]);
}
{ // A region that scrolls, lines put in and taken out.
  const { made, put } = screen(5, 4);
  put("1\r\n2\r\n3\r\n4\r\n5\x1b[2;4r\x1b[4;1H\n");
  assert.deepStrictEqual(made.text(), ["1", "3", "4", "", "5"]);
  put("\x1b[2;1H\x1b[L");
  assert.deepStrictEqual(made.text(), ["1", "", "3", "4", "5"]);
  put("\x1b[M\x1bM");
  assert.deepStrictEqual(made.text(), ["1", "", "3", "4", "5"]);
  assert.strictEqual(made.history.length, 0);
}
{ // The second screen of editors, saved places, line drawing, titles.
  const { made, said, put } = screen(3, 6);
  put("shell\x1b[?1049h\x1b[H\x1b[2Jvim\x1b]0;title\x07\x1b[6n\x1b[c");
  assert.deepStrictEqual(made.text(), ["vim", "", ""]);
  assert.deepStrictEqual(said, ["\x1b[1;4R", "\x1b[?62;22c"]);
  put("\x1b[?1049l\x1b(0q\x1b(B");
  assert.deepStrictEqual(made.text(), ["shell─", "", ""]);
}
{ // A new size keeps what is there.
  const { made, put } = screen(4, 6);
  put("1\r\n2\r\n3\r\n4");
  made.resize(2, 3);
  assert.deepStrictEqual([made.text(), made.y, made.history.length], [["3", "4"], 1, 2]);
  made.resize(3, 8);
  assert.deepStrictEqual(made.text(), ["3", "4", ""]);
}
{ // Nonsense harms nothing.
  const { made } = screen(5, 9);
  let seed = 7;
  for (let i = 0; i < 200000; i += 1) {
    seed = (seed * 1103515245 + 12345) & 0x7fffffff;
    const pick = [0x1b, 0x5b, 0x3b, (seed >> 8) & 0x3f | 0x20, (seed >> 16) & 0xff][seed % 5];
    made.write(Uint8Array.of(pick));
    if (i % 5000 === 0) made.resize(1 + (seed % 9), 2 + ((seed >> 4) % 12));
  }
  assert.ok(made.lines.length === made.rows && made.lines.every((line) => line.length === made.columns));
  assert.ok(made.x >= 0 && made.x < made.columns && made.y >= 0 && made.y < made.rows);
}
{ // Keys.
  const press = (key, more = {}, modes = {}) => keyBytes({ key, ...more }, modes);
  assert.deepStrictEqual([press("a"), press("Enter"), press("Backspace"), press("Tab", { shiftKey: true })], [null, "\r", "\x7f", "\x1b[Z"]);
  assert.deepStrictEqual([press("c", { ctrlKey: true }), press(" ", { ctrlKey: true }), press("b", { altKey: true })], ["\x03", "\0", "\x1bb"]);
  assert.deepStrictEqual([press("ArrowUp"), press("ArrowUp", {}, { applicationKeys: true }), press("ArrowLeft", { ctrlKey: true })], ["\x1b[A", "\x1bOA", "\x1b[1;5D"]);
  assert.deepStrictEqual([press("F1"), press("F5"), press("Delete"), press("PageUp", { shiftKey: true })], ["\x1bOP", "\x1b[15~", "\x1b[3~", "\x1b[5;2~"]);
}
