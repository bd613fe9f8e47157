#!/usr/bin/env python3
"""CPU time of an OpenAI-style streaming front end, stage by stage: the "front-end bench" of engine_profiles/*.yaml.

  tools/front_end_timing.py [TEXT_FILE…]        (pip install tokenizers fastapi uvicorn uvloop pydantic)

Not an engine's own server: the libraries that vLLM's is built on (tokenizers, pydantic, FastAPI, uvicorn), doing what it does with
them. A byte-level BPE of 32,000 is trained on the given texts (default: this repository's docs). Times are process CPU time, not wall.
"""
import asyncio
import glob
import os
import subprocess
import sys
import time
from typing import Optional

CLIENT = """
import http.client, json, sys, threading
streams = int(sys.argv[1]); body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "word " * 256}]})
def one():
    c = http.client.HTTPConnection("127.0.0.1", 8977); c.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    r = c.getresponse()
    while r.read1(65536): pass
threads = [threading.Thread(target=one) for _ in range(streams)]
for t in threads: t.start()
for t in threads: t.join()
"""


def time_tokenizer(text):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from tokenizers.decoders import DecodeStream
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([text], trainers.BpeTrainer(vocab_size=32000, initial_alphabet=alphabet, show_progress=False))
    for characters in (4000, 16000, 64000):
        times = []
        for repeat in range(5):
            piece = text[repeat * 1000:repeat * 1000 + characters]
            begin = time.process_time()
            times.append((len(tokenizer.encode(piece).ids), time.process_time() - begin))
        print(f"encode, {characters} characters: {sorted(t / n for n, t in times)[2] * 1e6:.2f} us a token")
    ids = tokenizer.encode(text[:60000]).ids
    stream = DecodeStream(skip_special_tokens=True)
    begin = time.process_time()
    for token in ids:
        stream.step(tokenizer, token)
    print(f"DecodeStream.step: {(time.process_time() - begin) / len(ids) * 1e6:.2f} us a token")


async def time_server():
    import uvicorn
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse
    from pydantic import BaseModel

    class Delta(BaseModel):
        role: Optional[str] = None
        content: Optional[str] = None

    class Choice(BaseModel):
        index: int
        delta: Delta
        finish_reason: Optional[str] = None

    class Chunk(BaseModel):
        id: str
        object: str = "chat.completion.chunk"
        created: int
        model: str
        choices: list[Choice]

    class Message(BaseModel):
        role: str
        content: str

    class ChatRequest(BaseModel):
        model: str
        messages: list[Message]

    app, queues = FastAPI(), []

    @app.post("/v1/chat/completions")
    async def chat(_: ChatRequest):
        queue = asyncio.Queue()
        queues.append(queue)

        async def events():
            while (text := await queue.get()) is not None:
                chunk = Chunk(id="chatcmpl-abc", created=1, model="m", choices=[Choice(index=0, delta=Delta(content=text))])
                yield f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n"
            yield "data: [DONE]\n\n"
        return StreamingResponse(events(), media_type="text/event-stream")

    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=8977, log_level="error", loop="uvloop", access_log=False))
    serving = asyncio.create_task(server.serve())
    await asyncio.sleep(1)
    for streams in (16, 128):
        client = subprocess.Popen([sys.executable, "-c", CLIENT, str(streams)])
        begin = time.process_time()
        while len(queues) < streams:
            await asyncio.sleep(0.005)
        print(f"accept, parse and validate, {streams} at once: {(time.process_time() - begin) / streams * 1e6:.0f} us a request")
        await asyncio.sleep(0.3)
        steps, begin = 300, time.process_time()
        for _ in range(steps):
            for queue in queues:
                queue.put_nowait("tok")
            while queues[-1].qsize():
                await asyncio.sleep(0)
        print(f"queue to socket, {streams} streams: {(time.process_time() - begin) / (streams * steps) * 1e6:.1f} us an event")
        for queue in queues:
            queue.put_nowait(None)
        queues.clear()
        await asyncio.sleep(0.3)
        client.wait()
    server.should_exit = True
    await serving


def main():
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    files = sys.argv[1:] or glob.glob(here + "/docs/*.md") + glob.glob(here + "/*.md")
    text = ""
    for path in files:
        with open(path, encoding="utf-8") as f:
            text += f.read() + "\n"
    time_tokenizer(text)
    asyncio.run(time_server())


if __name__ == "__main__":
    main()
