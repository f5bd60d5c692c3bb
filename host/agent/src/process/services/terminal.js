// A terminal: what programs write becomes a screen (Screen), keys become what programs read (keyBytes), and the page
// joins both to the agent by a web socket. It understands what programs for xterm-256color commonly write.
"use strict";

const HISTORY = 2000;
// Line drawing, of ESC ( 0.
const LINES = { j: "┘", k: "┐", l: "┌", m: "└", n: "┼", q: "─", t: "├", u: "┤", v: "┴", w: "┬", x: "│", a: "▒",
  "`": "◆", f: "°", g: "±", o: "⎺", p: "⎻", r: "⎼", s: "⎽", y: "≤", z: "≥", "~": "·" };
const COLOURS = ["#000000", "#cd3131", "#0dbc79", "#e5e510", "#2472c8", "#bc3fbc", "#11a8cd", "#e5e5e5",
  "#666666", "#f14c4c", "#23d18b", "#f5f543", "#3b8eea", "#d670d6", "#29b8db", "#ffffff"];

function colour(number) {
  if (number < 16) return COLOURS[number];
  if (number >= 232) {
    const grey = 8 + (number - 232) * 10;
    return `rgb(${grey},${grey},${grey})`;
  }
  const part = (n) => (n === 0 ? 0 : 55 + n * 40);
  const n = number - 16;
  return `rgb(${part(Math.floor(n / 36))},${part(Math.floor(n / 6) % 6)},${part(n % 6)})`;
}

// How many cells a character takes.
function width(code) {
  if ((code >= 0x300 && code <= 0x36f) || (code >= 0x200b && code <= 0x200f) || (code >= 0xfe00 && code <= 0xfe0f)
    || (code >= 0x20d0 && code <= 0x20ff)) return 0;
  if ((code >= 0x1100 && code <= 0x115f) || (code >= 0x2e80 && code <= 0x303e) || (code >= 0x3041 && code <= 0xa4cf)
    || (code >= 0xac00 && code <= 0xd7a3) || (code >= 0xf900 && code <= 0xfaff) || (code >= 0xfe30 && code <= 0xfe6f)
    || (code >= 0xff00 && code <= 0xff60) || (code >= 0xffe0 && code <= 0xffe6) || (code >= 0x1f300 && code <= 0x1f64f)
    || (code >= 0x1f900 && code <= 0x1f9ff) || (code >= 0x20000 && code <= 0x3fffd)) return 2;
  return 1;
}

// Styles are values that are shared: two cells look the same when they have the same one.
const PLAIN = Object.freeze({ fg: null, bg: null, bold: false, dim: false, italic: false, underline: false,
  strike: false, inverse: false, hidden: false });

class Screen {
  // `reply` is called with what the terminal answers to programs.
  constructor(rows, columns, reply = () => {}) {
    this.rows = rows;
    this.columns = columns;
    this.reply = reply;
    this.decoder = new TextDecoder();
    this.history = [];
    this.dropped = 0;
    this.reset();
  }

  reset() {
    this.style = PLAIN;
    this.x = 0;
    this.y = 0;
    this.wrapNext = false;
    this.top = 0;
    this.bottom = this.rows - 1;
    this.saved = null;
    this.other = null;
    this.modes = { wrap: true, cursor: true, applicationKeys: false, paste: false, origin: false, insert: false };
    this.drawing = [false, false];
    this.charset = 0;
    this.state = "text";
    this.sequence = "";
    this.last = " ";
    this.tabs = new Set();
    for (let x = 8; x < 1000; x += 8) this.tabs.add(x);
    this.lines = Array.from({ length: this.rows }, () => this.blank());
  }

  // An erased line has the background that is set.
  blank() {
    return Array.from({ length: this.columns }, () => this.empty());
  }

  empty() {
    return { text: " ", style: this.style.bg === null ? PLAIN : { ...PLAIN, bg: this.style.bg } };
  }

  resize(rows, columns) {
    const fit = (lines, isCurrent) => {
      for (const line of lines) {
        while (line.length < columns) line.push({ text: " ", style: PLAIN });
        line.length = columns;
      }
      while (lines.length > rows) {
        // What is below the cursor goes first, then the top.
        if (isCurrent && this.y < lines.length - 1) lines.pop();
        else {
          const line = lines.shift();
          if (isCurrent) {
            if (!this.other) this.remember(line);
            this.y = Math.max(0, this.y - 1);
          }
        }
      }
      while (lines.length < rows) lines.push(Array.from({ length: columns }, () => ({ text: " ", style: PLAIN })));
    };
    fit(this.lines, true);
    if (this.other) fit(this.other.lines, false);
    this.rows = rows;
    this.columns = columns;
    this.top = 0;
    this.bottom = rows - 1;
    this.move(this.x, this.y);
  }

  remember(line) {
    this.history.push(line);
    if (this.history.length > HISTORY) {
      this.history.shift();
      this.dropped += 1;
    }
  }

  // Bytes that programs wrote; characters may be cut anywhere.
  write(bytes) {
    for (const char of this.decoder.decode(bytes, { stream: true })) this.take(char);
  }

  take(char) {
    const code = char.codePointAt(0);
    if (this.state === "string") {
      // Titles and the like: to their end.
      if (code === 7 || code === 0x9c) this.state = "text";
      else if (code === 0x1b) this.state = "string end";
      return;
    }
    if (this.state === "string end") {
      this.state = char === "\\" ? "text" : "string";
      return;
    }
    if (code === 0x18 || code === 0x1a) this.state = "text";
    else if (code === 0x1b) {
      this.state = "escape";
      this.sequence = "";
    } else if (code < 0x20) this.control(code);
    else if (this.state === "text") this.print(char, code);
    else if (this.state === "escape") this.escape(char);
    else if (this.state === "intermediate") {
      this.intermediate(this.sequence, char);
      this.state = "text";
    } else if (code >= 0x40 && code <= 0x7e) {
      this.state = "text";
      this.command(char, this.sequence);
    } else if (this.sequence.length < 256) this.sequence += char;
  }

  control(code) {
    if (code === 8) this.move(this.x - 1, this.y);
    else if (code === 9) {
      let x = this.x + 1;
      while (x < this.columns - 1 && !this.tabs.has(x)) x += 1;
      this.move(x, this.y);
    } else if (code === 10 || code === 11 || code === 12) this.index();
    else if (code === 13) this.move(0, this.y);
    else if (code === 14) this.charset = 1;
    else if (code === 15) this.charset = 0;
  }

  print(char, code) {
    const cells = width(code);
    if (cells === 0) {
      const before = this.lines[this.y][Math.max(0, this.x - (this.wrapNext ? 0 : 1))];
      before.text += char;
      return;
    }
    if (code === 0x7f) return;
    if (this.wrapNext || this.x + cells > this.columns) {
      if (this.modes.wrap) {
        this.x = 0;
        this.index();
      } else this.x = Math.max(0, this.columns - cells);
      this.wrapNext = false;
    }
    const line = this.lines[this.y];
    if (this.modes.insert) {
      for (let i = 0; i < cells; i += 1) line.splice(this.x, 0, this.empty());
      line.length = this.columns;
    }
    if (this.drawing[this.charset] && LINES[char]) char = LINES[char];
    this.last = char;
    line[this.x] = { text: char, style: this.style };
    if (cells === 2 && this.x + 1 < this.columns) line[this.x + 1] = { text: "", style: this.style };
    this.x += cells;
    if (this.x >= this.columns) {
      this.x = this.columns - 1;
      this.wrapNext = true;
    }
  }

  move(x, y) {
    this.x = Math.min(Math.max(0, x), this.columns - 1);
    this.y = Math.min(Math.max(0, y), this.rows - 1);
    this.wrapNext = false;
  }

  // One line down; the region scrolls at its end.
  index() {
    this.wrapNext = false;
    if (this.y === this.bottom) this.scroll(1);
    else this.y = Math.min(this.y + 1, this.rows - 1);
  }

  reverseIndex() {
    this.wrapNext = false;
    if (this.y === this.top) this.scroll(-1);
    else this.y = Math.max(0, this.y - 1);
  }

  scroll(count, top = this.top) {
    for (let i = 0; i < Math.min(Math.abs(count), this.rows); i += 1) {
      if (count > 0) {
        const [line] = this.lines.splice(top, 1);
        this.lines.splice(this.bottom, 0, this.blank());
        if (top === 0 && !this.other) this.remember(line);
      } else {
        this.lines.splice(this.bottom, 1);
        this.lines.splice(top, 0, this.blank());
      }
    }
  }

  save() {
    this.saved = { x: this.x, y: this.y, style: this.style, charset: this.charset, drawing: [...this.drawing] };
  }

  restore() {
    if (!this.saved) return this.move(0, 0);
    this.style = this.saved.style;
    this.charset = this.saved.charset;
    this.drawing = [...this.saved.drawing];
    return this.move(this.saved.x, this.saved.y);
  }

  alternate(on) {
    if (on && !this.other) {
      this.other = { lines: this.lines };
      this.lines = Array.from({ length: this.rows }, () => this.blank());
    } else if (!on && this.other) {
      this.lines = this.other.lines;
      this.other = null;
    }
  }

  escape(char) {
    this.state = "text";
    if (char === "[") this.state = "sequence";
    else if ("]P^_X".includes(char)) this.state = "string";
    else if ("()*+#% ".includes(char)) {
      this.sequence = char;
      this.state = "intermediate";
    } else if (char === "7") this.save();
    else if (char === "8") this.restore();
    else if (char === "D") this.index();
    else if (char === "E") {
      this.x = 0;
      this.index();
    } else if (char === "M") this.reverseIndex();
    else if (char === "H") this.tabs.add(this.x);
    else if (char === "c") this.reset();
  }

  intermediate(kind, char) {
    if (kind === "(") this.drawing[0] = char === "0";
    else if (kind === ")") this.drawing[1] = char === "0";
  }

  command(char, text) {
    const mark = "<=>?!".includes(text[0]) ? text[0] : "";
    const numbers = text.slice(mark.length).split(/[;:]/).map((part) => parseInt(part, 10));
    const n = (index, otherwise) => (Number.isNaN(numbers[index]) || numbers[index] === undefined ? otherwise : numbers[index]);
    const count = Math.min(Math.max(1, n(0, 1)), 10000);
    if (mark === "?" && (char === "h" || char === "l")) {
      for (const mode of numbers) this.setMode(mode, char === "h");
      return;
    }
    if (mark === ">" && char === "c") return this.reply("\x1b[>0;10;0c");
    if (mark === "!" && char === "p") return this.reset();
    if (mark !== "") return;
    const line = this.lines[this.y];
    const base = this.modes.origin ? this.top : 0;
    switch (char) {
      case "A": this.move(this.x, Math.max(this.y - count, this.y >= this.top ? this.top : 0)); break;
      case "B": case "e":
        this.move(this.x, Math.min(this.y + count, this.y <= this.bottom ? this.bottom : this.rows - 1)); break;
      case "C": case "a": this.move(this.x + count, this.y); break;
      case "D": this.move(this.x - count, this.y); break;
      case "E": this.move(0, this.y + count); break;
      case "F": this.move(0, this.y - count); break;
      case "G": case "`": this.move(count - 1, this.y); break;
      case "d": this.move(this.x, base + count - 1); break;
      case "H": case "f": this.move(Math.max(1, n(1, 1)) - 1, base + count - 1); break;
      case "J": this.eraseScreen(n(0, 0)); break;
      case "K": this.eraseLine(n(0, 0)); break;
      case "X": for (let x = this.x; x < Math.min(this.x + count, this.columns); x += 1) line[x] = this.empty(); break;
      case "@":
        for (let i = 0; i < Math.min(count, this.columns); i += 1) line.splice(this.x, 0, this.empty());
        line.length = this.columns;
        break;
      case "P":
        line.splice(this.x, count);
        while (line.length < this.columns) line.push(this.empty());
        break;
      case "L": if (this.y >= this.top && this.y <= this.bottom) this.scroll(-count, this.y); break;
      case "M": if (this.y >= this.top && this.y <= this.bottom) this.deleteLines(count); break;
      case "S": this.scroll(count); break;
      case "T": this.scroll(-count); break;
      case "b": for (let i = 0; i < count; i += 1) this.print(this.last, this.last.codePointAt(0)); break;
      case "g": if (n(0, 0) === 3) this.tabs.clear(); else this.tabs.delete(this.x); break;
      case "h": case "l": if (numbers.includes(4)) this.modes.insert = char === "h"; break;
      case "m": this.dress(numbers); break;
      case "n":
        if (n(0, 0) === 5) this.reply("\x1b[0n");
        else if (n(0, 0) === 6) this.reply(`\x1b[${this.y - base + 1};${this.x + 1}R`);
        break;
      case "c": this.reply("\x1b[?62;22c"); break;
      case "r": {
        const [top, bottom] = [Math.max(1, n(0, 1)) - 1, Math.min(n(1, this.rows) || this.rows, this.rows) - 1];
        if (top < bottom) {
          this.top = top;
          this.bottom = bottom;
          this.move(0, this.modes.origin ? top : 0);
        }
        break;
      }
      case "s": this.save(); break;
      case "u": this.restore(); break;
      default:
    }
    return undefined;
  }

  deleteLines(count) {
    for (let i = 0; i < Math.min(count, this.rows); i += 1) {
      this.lines.splice(this.y, 1);
      this.lines.splice(this.bottom, 0, this.blank());
    }
  }

  setMode(mode, on) {
    if (mode === 1) this.modes.applicationKeys = on;
    else if (mode === 6) {
      this.modes.origin = on;
      this.move(0, on ? this.top : 0);
    } else if (mode === 7) this.modes.wrap = on;
    else if (mode === 25) this.modes.cursor = on;
    else if (mode === 47 || mode === 1047) this.alternate(on);
    else if (mode === 1048) (on ? this.save() : this.restore());
    else if (mode === 1049) {
      if (on) this.save();
      this.alternate(on);
      if (!on) this.restore();
    } else if (mode === 2004) this.modes.paste = on;
  }

  eraseLine(which, y = this.y) {
    const from = which === 0 ? this.x : 0;
    const to = which === 1 ? this.x + 1 : this.columns;
    for (let x = from; x < to; x += 1) this.lines[y][x] = this.empty();
    this.wrapNext = false;
  }

  eraseScreen(which) {
    if (which === 3) {
      this.dropped += this.history.length;
      this.history = [];
      return;
    }
    if (which !== 2) this.eraseLine(which);
    const from = which === 0 ? this.y + 1 : 0;
    const to = which === 1 ? this.y : this.rows;
    for (let y = from; y < to; y += 1) this.lines[y] = this.blank();
  }

  dress(numbers) {
    let style = { ...this.style };
    for (let i = 0; i < numbers.length; i += 1) {
      const n = Number.isNaN(numbers[i]) ? 0 : numbers[i];
      if (n === 0) style = { ...PLAIN };
      else if (n === 1) style.bold = true;
      else if (n === 2) style.dim = true;
      else if (n === 3) style.italic = true;
      else if (n === 4) style.underline = true;
      else if (n === 7) style.inverse = true;
      else if (n === 8) style.hidden = true;
      else if (n === 9) style.strike = true;
      else if (n === 22) style.bold = style.dim = false;
      else if (n === 23) style.italic = false;
      else if (n === 24) style.underline = false;
      else if (n === 27) style.inverse = false;
      else if (n === 28) style.hidden = false;
      else if (n === 29) style.strike = false;
      else if (n >= 30 && n <= 37) style.fg = n - 30;
      else if (n === 39) style.fg = null;
      else if (n >= 40 && n <= 47) style.bg = n - 40;
      else if (n === 49) style.bg = null;
      else if (n >= 90 && n <= 97) style.fg = n - 82;
      else if (n >= 100 && n <= 107) style.bg = n - 92;
      else if (n === 38 || n === 48) {
        let value = null;
        if (numbers[i + 1] === 5) {
          value = (numbers[i + 2] || 0) & 255;
          i += 2;
        } else if (numbers[i + 1] === 2) {
          value = `rgb(${[2, 3, 4].map((at) => (numbers[i + at] || 0) & 255).join(",")})`;
          i += 4;
        }
        if (n === 38) style.fg = value;
        else style.bg = value;
      }
    }
    this.style = Object.freeze(style);
  }

  // The lines as text, for tests and for copying.
  text() {
    return this.lines.map((line) => line.map((cell) => cell.text).join("").trimEnd());
  }
}

// What a key sends; nothing when it is text, which comes as input.
function keyBytes(event, modes) {
  const { key, ctrlKey: ctrl, altKey: alt, shiftKey: shift, metaKey: meta } = event;
  if (meta || (ctrl && shift && "cCvV".includes(key))) return null;
  const modifier = 1 + (shift ? 1 : 0) + (alt ? 2 : 0) + (ctrl ? 4 : 0);
  const arrows = { ArrowUp: "A", ArrowDown: "B", ArrowRight: "C", ArrowLeft: "D", Home: "H", End: "F" };
  if (arrows[key]) {
    if (modifier > 1) return `\x1b[1;${modifier}${arrows[key]}`;
    return (modes.applicationKeys ? "\x1bO" : "\x1b[") + arrows[key];
  }
  const numbered = { Insert: 2, Delete: 3, PageUp: 5, PageDown: 6, F5: 15, F6: 17, F7: 18, F8: 19, F9: 20, F10: 21,
    F11: 23, F12: 24 };
  if (numbered[key]) return `\x1b[${numbered[key]}${modifier > 1 ? `;${modifier}` : ""}~`;
  const firsts = { F1: "P", F2: "Q", F3: "R", F4: "S" };
  if (firsts[key]) return modifier > 1 ? `\x1b[1;${modifier}${firsts[key]}` : `\x1bO${firsts[key]}`;
  const before = alt ? "\x1b" : "";
  if (key === "Enter") return `${before}\r`;
  if (key === "Backspace") return before + (ctrl ? "\x08" : "\x7f");
  if (key === "Tab") return shift ? "\x1b[Z" : `${before}\t`;
  if (key === "Escape") return `${before}\x1b`;
  if (ctrl && key.length === 1) {
    if (key === " ") return `${before}\0`;
    const code = key.toUpperCase().charCodeAt(0);
    if (code >= 0x40 && code <= 0x5f) return before + String.fromCharCode(code & 0x1f);
    if (key === "/") return `${before}\x1f`;
    if (key === "?") return `${before}\x7f`;
  }
  if (alt && !ctrl && key.length === 1) return `\x1b${key}`;
  return null;
}

function start() {
  const [place, keys, note] = ["screen", "keys", "note"].map((id) => document.getElementById(id));
  const encoder = new TextEncoder();
  let socket = null;
  const send = (text) => {
    if (socket && socket.readyState === WebSocket.OPEN) socket.send(encoder.encode(text));
  };
  const say = (text) => {
    note.textContent = text;
    note.style.display = text ? "block" : "none";
  };
  const size = () => {
    const probe = document.createElement("span");
    probe.textContent = "x".repeat(50);
    place.append(probe);
    const wide = probe.getBoundingClientRect().width / 50 || 8;
    probe.remove();
    return [Math.max(2, Math.floor((place.clientHeight - 8) / 18)), Math.max(8, Math.floor((place.clientWidth - 8) / wide))];
  };
  const screen = new Screen(...size(), send);

  // A line as spans of one look each.
  const draw = (row, line, cursor) => {
    const spans = [];
    let run = null;
    line.forEach((cell, x) => {
      const here = x === cursor;
      if (!run || here || run.here || run.style !== cell.style) {
        run = { style: cell.style, here, text: "" };
        spans.push(run);
      }
      run.text += cell.text;
    });
    row.replaceChildren(...spans.map(({ style, here, text }) => {
      const span = document.createElement("span");
      span.textContent = text;
      if (here) span.className = "cursor";
      else if (style !== PLAIN) {
        const value = (part, otherwise) => (part === null ? otherwise : typeof part === "number" ? colour(part) : part);
        const bright = style.bold && typeof style.fg === "number" && style.fg < 8 ? style.fg + 8 : style.fg;
        let [fg, bg] = [value(bright, style.inverse ? "#ddd" : ""), value(style.bg, style.inverse ? "#111" : "")];
        if (style.inverse) [fg, bg] = [bg, fg];
        Object.assign(span.style, { color: style.hidden ? "transparent" : fg, backgroundColor: bg,
          fontWeight: style.bold ? "bold" : "", fontStyle: style.italic ? "italic" : "", opacity: style.dim ? "0.6" : "",
          textDecoration: `${style.underline ? "underline " : ""}${style.strike ? "line-through" : ""}` });
      }
      return span;
    }));
  };
  let [shown, dropped, waiting] = [0, 0, false];
  const render = () => {
    waiting = false;
    const atEnd = place.scrollTop + place.clientHeight >= place.scrollHeight - 20;
    // Lines that scrolled away stay as they were drawn.
    for (; dropped < screen.dropped && shown > 0; dropped += 1, shown -= 1) place.firstChild.remove();
    dropped = screen.dropped;
    while (place.children.length > shown) place.lastChild.remove();
    const add = (line, cursor) => {
      const row = document.createElement("div");
      draw(row, line, cursor);
      place.append(row);
    };
    for (; shown < screen.history.length; shown += 1) add(screen.history[shown], -1);
    screen.lines.forEach((line, y) => add(line, screen.modes.cursor && y === screen.y ? screen.x : -1));
    if (atEnd) place.scrollTop = place.scrollHeight;
  };
  const soon = () => {
    if (!waiting) {
      waiting = true;
      requestAnimationFrame(render);
    }
  };
  const tellSize = () => socket.send(JSON.stringify({ resize: { rows: screen.rows, columns: screen.columns } }));

  const connect = () => {
    const url = new URL("ws", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      say("");
      tellSize();
    };
    socket.onmessage = ({ data }) => {
      if (typeof data !== "string") screen.write(new Uint8Array(data));
      soon();
    };
    socket.onclose = () => {
      socket = null;
      say("The connection ended. Press Enter to begin again.");
    };
  };

  const type = (text) => {
    if (!socket) {
      if (text === "\r") connect();
      return;
    }
    place.scrollTop = place.scrollHeight;
    send(text);
  };
  keys.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    const text = keyBytes(event, screen.modes);
    if (text !== null) {
      event.preventDefault();
      type(text);
    }
  });
  const takeText = () => {
    if (keys.value) type(keys.value);
    keys.value = "";
  };
  keys.addEventListener("input", (event) => event.isComposing || takeText());
  keys.addEventListener("compositionend", takeText);
  keys.addEventListener("paste", (event) => {
    event.preventDefault();
    const text = event.clipboardData.getData("text").replace(/\r?\n/g, "\r");
    // Nothing that is pasted ends the paste by itself.
    type(screen.modes.paste ? `\x1b[200~${text.replaceAll("\x1b", "")}\x1b[201~` : text);
  });
  place.addEventListener("mouseup", () => String(getSelection()) || keys.focus());
  addEventListener("resize", () => {
    screen.resize(...size());
    if (socket && socket.readyState === WebSocket.OPEN) tellSize();
    soon();
  });
  keys.focus();
  soon();
  connect();
}

if (typeof module !== "undefined") module.exports = { Screen, keyBytes, colour };
else start();
