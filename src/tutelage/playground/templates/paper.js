"use strict";
// What a person draws: strokes as lists of points, shares of the paper's side.

class Drawing {
  constructor() {
    this.strokes = [];
  }

  begin(point) {
    this.strokes.push([point]);
  }

  extend(point) {
    this.strokes.at(-1).push(point);
  }

  undo() {
    this.strokes.pop();
  }

  get isEmpty() {
    return this.strokes.length === 0;
  }

  // The drawing moved and scaled as the run's images are: its longer side takes up their
  // share, its centre of mass lies in the middle unless it would then leave the frame.
  fitted(extent, pen) {
    const points = this.strokes.flat();
    const sides = [0, 1].map((axis) => {
      const along = points.map((point) => point[axis]);
      return { low: Math.min(...along), high: Math.max(...along) };
    });
    const longer = Math.max(...sides.map(({ low, high }) => high - low));
    const scale = longer > 0.02 ? Math.max(extent - pen, 0.05) / longer : 1;
    const mass = this.centreOfMass();
    const margin = pen / 2;
    const moves = sides.map(({ low, high }, axis) => {
      const least = margin - low * scale;
      const most = 1 - margin - high * scale;
      const wanted = 0.5 - mass[axis] * scale;
      return least > most ? (least + most) / 2 : Math.min(Math.max(wanted, least), most);
    });
    const moved = new Drawing();
    moved.strokes = this.strokes.map((stroke) =>
      stroke.map((point) => point.map((value, axis) => value * scale + moves[axis])),
    );
    return moved;
  }

  centreOfMass() {
    let length = 0;
    const sums = [0, 0];
    for (const stroke of this.strokes)
      stroke.forEach((point, i) => {
        const before = stroke[Math.max(i - 1, 0)];
        const part = Math.hypot(point[0] - before[0], point[1] - before[1]) + 1e-6;
        length += part;
        for (const axis of [0, 1]) sums[axis] += (part * (point[axis] + before[axis])) / 2;
      });
    return sums.map((sum) => sum / length);
  }

  // Paint onto a square canvas.
  paint(canvas, { background, ink, pen }) {
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const side = canvas.width;
    context.fillStyle = background;
    context.fillRect(0, 0, side, side);
    context.strokeStyle = context.fillStyle = ink;
    context.lineWidth = pen * side;
    context.lineCap = context.lineJoin = "round";
    for (const stroke of this.strokes) {
      context.beginPath();
      stroke.forEach(([x, y]) => context.lineTo(x * side, y * side));
      if (stroke.length === 1) context.lineTo(stroke[0][0] * side, stroke[0][1] * side);
      context.stroke();
    }
  }
}
