/* Search without a server. Browsers refuse to start a worker for a page that was opened from a file, so that Material's
   search would not run; here an iframe that is not shown runs the worker's script, with the interface of a Worker. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      const inside = this.frame.contentWindow;
      const page = inside.document;
      page.open();
      page.write("<!doctype html><html><body></body></html>");
      page.close();
      inside.postMessage = (message) => this.receive(message);
      // a worker's importScripts blocks; Material's waits for what it returns
      inside.importScripts = (...urls) =>
        urls.reduce((before, one) => before.then(() => this.run(new URL(one, url).href)), Promise.resolve());
      this.ready = this.run(String(url));
    }

    run(url) {
      return new Promise((resolve, reject) => {
        const script = this.frame.contentDocument.createElement("script");
        script.src = url;
        script.onload = resolve;
        script.onerror = () => reject(new Error(`${url} cannot be loaded`));
        this.frame.contentDocument.body.appendChild(script);
      });
    }

    receive(message) {
      const event = new MessageEvent("message", { data: message });
      this.dispatchEvent(event);
      if (this.onmessage) this.onmessage(event);
    }

    postMessage(message) {
      this.ready.then(() => {
        this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data: message }));
      });
    }

    terminate() {
      this.frame.remove();
    }
  };
}
