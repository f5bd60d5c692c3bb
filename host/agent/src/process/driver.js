// The persistent Node.js interpreter of a kernel. Commands come as lines of JSON on the descriptor 3, events go as lines of
// JSON to the pipe named by the first argument, as with driver.py.
'use strict';

const fs = require('fs');
const net = require('net');
const util = require('util');
const vm = require('vm');
const { Console } = require('console');
const { createRequire } = require('module');
const { Readable, Writable } = require('stream');

const HERE = __filename;
const events = fs.openSync(process.argv[2], 'w');
const control = new net.Socket({ fd: 3, readable: true, writable: false });

function emit(event) {
  let data = Buffer.from(JSON.stringify(event) + '\n');
  while (data.length > 0) data = data.subarray(fs.writeSync(events, data));
}

function print(kind, text) {
  // Lines of the event pipe have a limit.
  for (let at = 0; at < text.length; at += 65536) emit({ t: 'out', k: kind, d: text.slice(at, at + 65536) });
}

function stream(kind, fd) {
  const made = new Writable({
    decodeStrings: false,
    write(chunk, encoding, done) {
      print(kind, typeof chunk === 'string' ? chunk : chunk.toString('utf8'));
      done();
    },
  });
  made.fd = fd;
  return made;
}

const waiting = [];

function ask(prompt, password) {
  if (prompt) process.stdout.write(String(prompt));
  return new Promise((resolve, reject) => {
    waiting.push({ resolve, reject });
    emit({ t: 'input', password: Boolean(password) });
  });
}

class Stdin extends Readable {
  _read() {
    ask('', false).then((line) => this.push(line + '\n'), () => {});
  }
}

class Exit extends Error {}

let interrupt = null;
let count = 0;
const jobs = [];
let busy = false;

function report(error) {
  if (error instanceof Error && typeof error.stack === 'string') {
    const lines = error.stack.split('\n');
    const own = lines.findIndex((line) => line.includes(HERE) || line.includes('node:vm'));
    print('stderr', (own > 0 ? lines.slice(0, own) : lines).join('\n') + '\n');
  } else {
    print('stderr', 'Uncaught ' + util.inspect(error) + '\n');
  }
}

function compile(code, filename) {
  const options = { filename };
  if (vm.constants && vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER) {
    options.importModuleDynamically = vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER;
  }
  return new vm.Script(code, options);
}

// Code that awaits at its top level becomes the body of a function; what it declares there stays global.
function awaiting(code, filename) {
  const body = code.replace(/^(?:const|let|var)\s+(?=[\w$]+\s*=)/gm, '');
  const lines = body.trimEnd().split('\n');
  const last = lines.pop().replace(/;\s*$/, '');
  for (const text of [`${lines.join('\n')}\nreturn (${last}\n)`, body]) {
    try {
      return compile(`(async () => {${text}\n})()`, filename);
    } catch (error) {
      if (text === body) throw error;
    }
  }
  return null;
}

async function execute(code) {
  count += 1;
  const filename = `<input-${count}>`;
  let script;
  let awaits = false;
  try {
    script = compile(code, filename);
  } catch (error) {
    if (!(error instanceof SyntaxError) || !/\bawait\b/.test(code)) throw error;
    script = awaiting(code, filename);
    awaits = true;
  }
  const interrupted = new Promise((_, reject) => {
    interrupt = () => reject(Object.assign(new Error('interrupted'), { code: 'ERR_SCRIPT_EXECUTION_INTERRUPTED' }));
  });
  interrupted.catch(() => {});
  let value = script.runInThisContext({ breakOnSigint: true, displayErrors: false });
  if (awaits) value = await Promise.race([value, interrupted]);
  // What was begun and still asks for input belongs to this run.
  while (waiting.length > 0) {
    await Promise.race([new Promise((resolve) => setTimeout(resolve, 20)), interrupted]);
  }
  if (value !== undefined) print('stdout', util.inspect(value) + '\n');
}

async function run(job) {
  let status = 0;
  try {
    await execute(job.code);
  } catch (error) {
    if (error instanceof Exit) {
      status = error.status;
    } else {
      status = error && error.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED' ? 130 : 1;
      report(error);
    }
  }
  interrupt = null;
  for (const { reject } of waiting.splice(0)) reject(new Error('the run is over'));
  emit({ t: 'done', code: status });
}

async function work() {
  if (busy) return;
  busy = true;
  while (jobs.length > 0) await run(jobs.shift());
  busy = false;
}

function complete(job) {
  const found = new Set();
  const word = /[\w$.]*$/.exec(job.code || '')[0];
  const parts = word.split('.');
  const start = parts.pop();
  try {
    let value = globalThis;
    if (parts.length > 0) value = vm.runInThisContext(parts.join('.'), { timeout: 200 });
    for (let at = Object(value); at !== null && found.size < 500; at = Object.getPrototypeOf(at)) {
      for (const name of Object.getOwnPropertyNames(at)) {
        if (/^[A-Za-z_$]/.test(name) && name.startsWith(start)) found.add([...parts, name].join('.'));
      }
    }
  } catch (error) {
    // Nothing to complete.
  }
  emit({ t: 'complete', id: job.id, matches: word ? [...found].sort().slice(0, 500) : [] });
}

let rest = '';
control.setEncoding('utf8');
control.on('data', (data) => {
  rest += data;
  const lines = rest.split('\n');
  rest = lines.pop();
  for (const line of lines) {
    const job = JSON.parse(line);
    if (job.op === 'run') {
      jobs.push(job);
      work();
    } else if (job.op === 'input') {
      const next = waiting.shift();
      if (next) next.resolve(job.text);
    } else if (job.op === 'complete') {
      complete(job);
    }
  }
});
// The agent is gone.
control.on('end', () => process.kill(0, 'SIGKILL'));

const out = stream('stdout', 1);
const err = stream('stderr', 2);
for (const [name, value] of [['stdout', out], ['stderr', err], ['stdin', new Stdin()]]) {
  Object.defineProperty(process, name, { value, configurable: true, enumerable: true, writable: true });
}
globalThis.console = new Console(out, err);
globalThis.require = createRequire(process.cwd() + '/');
globalThis.input = (prompt, options) => ask(prompt, options && options.password);
process.exit = (status) => {
  throw Object.assign(new Exit('exit'), { status: Number(status === undefined ? process.exitCode || 0 : status) & 0xff });
};
process.on('SIGINT', () => {
  if (interrupt) interrupt();
});
process.on('uncaughtException', (error) => {
  if (!(error instanceof Exit)) report(error);
});
process.on('unhandledRejection', (error) => {
  if (!(error instanceof Exit)) report(error);
});
emit({ t: 'ready', version: process.versions.node });
